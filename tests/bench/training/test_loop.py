import math
from typing import ClassVar

import pytest
import torch
from lightning_fabric import Fabric

from bench.errors import BenchError
from bench.plugins.registry import discover, make_method
from bench.protocol import Method
from bench.training.batches import batches, batches_per_epoch
from bench.training.learner import fit_method
from bench.training.loop import NonFiniteLossError, _optimizer, train
from bench.training.models import make_embedder
from tests.bench.toys import RECIPE, images, make_task, no_old_context, whole, with_old_context


def fit(method, image_set, recipe=RECIPE, seed=0):
    subset, old = whole(image_set), make_embedder(recipe, 9).eval().requires_grad_(False)
    context = with_old_context(subset, old, image_set, recipe)
    task = make_task(method, context, recipe)
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    history = train(
        fabric, task, image_set, subset, context, old, recipe, seed, lambda done, total: None
    )
    return task, history


def state(task):
    return {name: value.clone() for name, value in task.state_dict().items()}


def test_the_loop_learns_separable_classes():
    recipe = RECIPE.model_copy(update={"epochs": 8})
    _, history = fit(Method(), images(), recipe)
    losses = [terms["classification"] for terms in history.terms]
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    assert min(history.rates[name] for name in ("train", "read", "augment", "model")) > 0


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, again, other = (state(fit(make_method("ract"), images(), seed=s)[0]) for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("name", ["l2", "ract"])
def test_every_method_meets_the_same_batches(name):
    plain, compatible = images(), images()
    fit(Method(), plain)
    fit(make_method(name), compatible)
    pairs = zip(plain.images.reads, compatible.images.reads, strict=True)
    assert all((one == two).all() for one, two in pairs)


def rate_of(step, recipe, steps):
    """The learning rate of a step: up in a line, then down a cosine to a hundredth."""
    warmup, whole = max(1, round(recipe.warmup_epochs * steps)), recipe.epochs * steps
    if step < warmup:
        return recipe.learning_rate * (1 / warmup + (1 - 1 / warmup) * step / warmup)
    turned = (1 + math.cos(math.pi * (step - warmup) / (whole - warmup))) / 2
    return recipe.learning_rate * (0.01 + 0.99 * turned)


def test_a_training_is_steps_along_the_sum_of_all_terms_at_the_rate_of_each_step():
    """A naive loop, in which every epoch has batches of its own, ends with the same weights."""
    recipe = RECIPE.model_copy(update={"epochs": 3, "warmup_epochs": 1})
    trained, _ = fit(make_method("l2"), images(), recipe)
    image_set = images()
    subset, old = whole(image_set), make_embedder(recipe, 9).eval().requires_grad_(False)
    context = with_old_context(subset, old, image_set, recipe)
    naive = make_task(make_method("l2"), context, recipe)
    torch.manual_seed(0)
    optimizer, steps = _optimizer(naive, recipe), batches_per_epoch(subset, recipe)
    naive.train()
    assert steps > 1
    for epoch in range(recipe.epochs):
        for index, batch in enumerate(batches(image_set, subset, recipe, 0, epoch)):
            step = epoch * steps + index
            for group in optimizer.param_groups:
                group["lr"] = rate_of(step, recipe, steps)
            terms = naive(*batch, context, old, step / (recipe.epochs * steps), epoch)
            assert set(terms) == {"classification", "l2"}
            sum(terms.values()).backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, value in state(trained).items():
        torch.testing.assert_close(value, state(naive)[name], rtol=1e-4, atol=1e-6)


class Listening(Method):
    """Keeps what it is told of the training, and what its fit draws."""

    def __init__(self):
        super().__init__()
        self.told = []

    def loss(self, step):
        self.told.append((step.epoch, step.epochs, step.progress))
        return {}

    def fit(self, bank):
        self.drawn = (bank, *torch.rand(3).tolist())


def test_a_method_is_told_how_far_the_whole_training_is():
    method, image_set, recipe = Listening(), images(), RECIPE.model_copy(update={"epochs": 3})
    fit(method, image_set, recipe)
    steps = batches_per_epoch(whole(image_set), recipe)
    assert method.told == [
        (epoch, 3, (epoch * steps + step) / (3 * steps))
        for epoch in range(3)
        for step in range(steps)
    ]


def test_what_a_fit_draws_depends_on_its_seed_alone():
    drawn = []
    for seed in (0, 1, 0):
        torch.rand(5)  # whatever was drawn before
        method = Listening()
        fit_method(method, "pairs", seed)
        drawn.append(method.drawn)
    assert drawn[0] == drawn[2] != drawn[1]
    assert drawn[0][0] == "pairs"


class Poisoned(Method):
    """A term that is not a number from the sixth step on."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def loss(self, step):
        self.steps += 1
        scale = float("nan") if self.steps > 5 else 0.0
        return {"fine": step.new.sum() * 0, "poison": step.new.sum() * scale}


def test_a_term_that_is_not_finite_fails_naming_step_and_term():
    with pytest.raises(NonFiniteLossError, match="loss term 'poison' is nan at step 5"):
        fit(Poisoned(), images())


class Replacing(Method):
    """Returns a classification term of its own."""

    trains: ClassVar[bool] = True

    def loss(self, step):
        return {"classification": 0 * step.classification}


def test_a_method_may_replace_the_classification_term():
    _, history = fit(Replacing(), images())
    assert [terms["classification"] for terms in history.terms] == [0.0, 0.0]


def test_the_old_embedding_is_not_computed_unless_a_method_reads_it():
    image_set = images()
    subset = whole(image_set)
    context = no_old_context(subset)

    class Forbidden(torch.nn.Module):
        def forward(self, images):
            raise AssertionError("nobody asked for the old embedding")

    task = make_task(Method(), context)
    fabric = Fabric(accelerator="cpu", devices=1)
    arguments = (fabric, task, image_set, subset, context, Forbidden(), RECIPE, 0)
    train(*arguments, lambda done, total: None)


def test_discovery_names_the_five_methods_of_the_default_suite():
    assert {"independent", "l2", "bct", "contrastive", "ract"} <= set(discover("methods"))


@pytest.mark.parametrize("name", ["nosuch", "lars:", "../sgd", "bnb"])
def test_an_optimiser_that_cannot_be_made_is_named(name):
    recipe = RECIPE.model_copy(update={"optimizer": name})
    with pytest.raises(BenchError, match=f"optimizer = '{name}' cannot be made"):
        _optimizer(torch.nn.Linear(2, 2), recipe)
