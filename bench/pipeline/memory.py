"""How much memory a training takes, from what one step keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bench.execution.resources import MEMORY_PER_WORKER
from bench.pipeline.specs import CellSpec
from bench.suites.schema import Recipe
from bench.training.models import Embedder, FixedEmbedder, PrecomputedEmbedder, make_embedder

SAMPLES = (2, 4)  # batches whose difference tells an image's share
WEIGHTS = 5  # times that the weights lie there: with gradients, two moments and the old model
# Peaks of whole steps were 1.1 to 1.4 times what they kept (gradients of maps, workspace), and 1.9
# times where that is less than 100 MB, for which a worker has room anyway.
SPARE = 1.6


def of_cells(specs: Iterable[CellSpec], devices: int) -> int:
    """Bytes that a process takes for the largest training of some cells; see `of_training`."""
    models = (model for spec in specs for model in spec.generations.values())
    recipes = {model.recipe.model_dump_json(): model.recipe for model in models}
    return max(of_training(recipe, devices) for recipe in recipes.values())


def of_training(recipe: Recipe, devices: int = 1) -> int:
    """Bytes that each of `devices` processes takes which train a model of this recipe together."""
    try:
        embedder = make_embedder(recipe.from_scratch(), 0).train()
    except Exception:  # whoever trains it says what is wrong
        return MEMORY_PER_WORKER
    weights = sum(each.numel() * each.element_size() for each in embedder.parameters())
    few, more = (_kept(embedder, recipe, count) for count in SAMPLES)
    image = (more - few) / (SAMPLES[1] - SAMPLES[0])
    step = image * recipe.batch_size / devices + WEIGHTS * weights
    return MEMORY_PER_WORKER + int(SPARE * step)


def _kept(embedder: Embedder, recipe: Recipe, count: int) -> int:
    """Bytes of the tensors that a forward pass of `count` images keeps, weights left out."""
    weights = {each.untyped_storage().data_ptr() for each in embedder.parameters()}
    kept: dict[int, torch.Tensor] = {}  # the tensors live, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    shape: tuple[int, ...] = (3, recipe.image_size, recipe.image_size)
    if isinstance(embedder, PrecomputedEmbedder):
        shape = (embedder.project.in_features,)
    elif isinstance(embedder, FixedEmbedder):
        shape = (recipe.width,)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embedder(torch.rand(count, *shape))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
