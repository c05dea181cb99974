"""What a method adds to a training step, as a ratio to the plain classifier with an old forward.

The denominator is the least that a method which compares with the old model can cost: the step of
the plain classifier, and the old model's forward pass over the batch. All are timed in turn, by the
CPU seconds that they take, and medians are compared: a busy machine slows them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from bench.protocol import Context, Method
from bench.suites.schema import Recipe
from bench.training.learner import Learner
from bench.training.models import Embedder, make_embedder, make_head

CLASSES, IMAGES = 254, 2048
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Cost:
    """Median CPU seconds of a method's step, of a plain classifier's step and of an old forward."""

    method: float
    plain: float
    old_forward: float

    @property
    def ratio(self) -> float:
        """Cost of the method's step in plain steps with an old forward pass."""
        return self.method / (self.plain + self.old_forward)

    @property
    def of_plain(self) -> float:
        """Cost of the method's step in plain steps."""
        return self.method / self.plain

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} × (plain step + old forward): {1000 * self.method:.0f} ms against "
            f"{1000 * self.plain:.0f} + {1000 * self.old_forward:.0f} ms"
        )


def step_cost(method: type[Method], repeats: int = 11, recipe: Recipe | None = None) -> Cost | None:
    """Time training steps of a method on random images; None where it has no training of its own.

    Models and batches are those of `recipe`, by default the default one, with a third of 254
    classes known to the old model.
    """
    if not method.trains:
        return None
    recipe = recipe or Recipe()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        old_model = make_embedder(recipe, 0).eval().requires_grad_(False)
        labels = torch.randint(CLASSES, (IMAGES,))
        context = random_context(recipe, method.extra_width, labels, CLASSES)
        batch = _batch(recipe, context)
        made = method()
        made.prepare(context)
        wide = recipe.model_copy(update={"width": context.new_width})
        runs: tuple[Callable[[], None], ...] = (
            _stepper(made, wide, old_model, context, batch),
            _stepper(Method(), recipe, old_model, context, batch),
            lambda: _forward(old_model, batch[0]),
        )
        seconds: list[list[float]] = [[] for _ in runs]
        for _ in range(repeats):
            for run, taken in zip(runs, seconds, strict=True):
                started = time.process_time()
                run()
                taken.append(time.process_time() - started)
    return Cost(*(median(taken[1:]) for taken in seconds))


def _stepper(
    method: Method, recipe: Recipe, old_model: Embedder, context: Context, batch: Batch
) -> Callable[[], None]:
    """Make a function that trains on the batch once."""
    learner = Learner(make_embedder(recipe, 1), make_head(CLASSES, recipe.width, 1), method)
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3, momentum=recipe.momentum)

    def step() -> None:
        terms = learner(*batch, context, old_model, 0.5, 10)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _forward(old_model: Embedder, images: Tensor) -> None:
    with torch.no_grad():
        old_model(images)


def random_context(
    recipe: Recipe,
    extra_width: int,
    labels: Tensor,
    classes: int,
    device: torch.device | None = None,
) -> Context:
    """Make what a method knows of random images with these labels [N], a third of the classes old.

    `extra_width` is what the method adds to the recipe's width.
    """

    def unit(rows: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, recipe.width), dim=1).to(device)

    known = max(1, classes // 3)
    old_row = torch.full((classes,), -1)
    old_row[:known] = torch.arange(known)
    return Context(
        old_width=recipe.width,
        new_width=recipe.width + extra_width,
        class_count=classes,
        temperature=recipe.temperature,
        old_head=unit(known),
        old_row=old_row.to(device),
        labels=labels.to(device),
        old_embeddings=unit(len(labels)),
        independent_embeddings=unit(len(labels)),
        independent_head=unit(classes),
        class_ids=(torch.arange(classes) % (recipe.width + 1)).to(device),
        dataset_classes=min(classes, recipe.width + 1),
    )


def _batch(recipe: Recipe, context: Context) -> Batch:
    images = torch.rand(recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    rows = torch.randint(IMAGES, (recipe.batch_size,))
    return images, rows, context.labels[rows]
