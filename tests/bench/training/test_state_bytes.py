"""What is broadcast and saved of each method grows with classes, never with training images."""

import pytest
import torch

from bench.costs.step import random_context
from bench.plugins.registry import discover, make_method, method_class
from bench.suites.schema import Recipe
from bench.training.checkpoint import AsMade, module_state, remade_buffers
from bench.training.learner import Learner, prepare_method
from bench.training.models import make_embedder, make_head

TRAINED = sorted(name for name in discover("methods") if method_class(name).trains)
WIDTH = 16


def bytes_of(name, classes, images):
    """Bytes of a method's own tensors that a state holds, and of those broadcast to all ranks."""
    torch.manual_seed(0)
    recipe = Recipe(width=WIDTH, image_size=16)
    extra = method_class(name).extra_width
    context = random_context(recipe, extra, torch.arange(images) % classes, classes)
    method = prepare_method(make_method(name), context, 0)
    wide = recipe.model_copy(update={"width": WIDTH + extra})
    learner = Learner(make_embedder(wide, 0), make_head(classes, WIDTH + extra, 0), method)
    state, left_out = module_state(learner, AsMade(learner)), set(remade_buffers(learner))
    saved = {**state["parameters"], **state["buffers"]}
    sent = dict([*learner.named_parameters(), *learner.named_buffers()])
    return tuple(
        sum(
            each.numel() * each.element_size()
            for key, each in tensors.items()
            if key.startswith("method.")
        )
        for tensors in (saved, {key: sent[key] for key in sent if key not in left_out})
    )


@pytest.mark.parametrize("name", TRAINED)
def test_states_and_broadcasts_do_not_grow_with_the_training_images(name):
    few, many, classes = (bytes_of(name, *size) for size in ((12, 60), (12, 600), (24, 60)))
    assert many == few
    for small, large in zip(few, classes, strict=True):
        # Two tables of class vectors at most: 0.3 GiB for 81,313 landmarks of 512 dimensions.
        assert large - small <= 2 * 12 * 4 * (WIDTH + 1)
