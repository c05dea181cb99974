"""What a plan will cost here: from models trained before, else from a few measured steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.models import make_embedder
from bench.plan import CellSpec, ModelSpec
from bench.runner import is_cached
from bench.stages import Stages
from bench.store import Store, facts
from bench.suite import Recipe

DRY_STEPS = 5


@dataclass(frozen=True)
class Cost:
    """Cells to run, models to train, and about how many minutes that takes."""

    cells: int
    models: int
    minutes: float
    basis: str


def estimate(plan: Sequence[CellSpec], store: Store, jobs: int) -> Cost:
    """Estimate the training time of what a plan lacks, `jobs` models at a time."""
    missing = [spec for spec in plan if not is_cached(store, spec)]
    every, wanted = _models(plan), _models(missing)
    training = [model for model in wanted if not is_cached(store, model)]
    stages, seconds, measured = Stages(store), 0.0, False
    rates: dict[str, float] = {}
    for model in training:
        name = model.recipe.model_dump_json()
        if name not in rates:
            known = _known_rate(store, model.recipe, every)
            measured = measured or known is None
            rates[name] = known or _measured_rate(model.recipe)
        seconds += stages.training_images(model) * model.recipe.epochs / rates[name]
    basis = "from a few measured steps" if measured else "from models trained before"
    return Cost(len(missing), len(training), seconds / jobs / 60, basis)


def _models(plan: Sequence[CellSpec]) -> list[ModelSpec]:
    """Every distinct model that has to be trained for a plan."""
    return list(
        dict.fromkeys(model.deployed for spec in plan for model in (*spec.foundations(), spec.new))
    )


def _known_rate(store: Store, recipe: Recipe, models: Sequence[ModelSpec]) -> float | None:
    """Median images/s of the models of this recipe that were trained before."""
    rates = [
        facts(store.path("models", model.key))["images_per_second"]
        for model in models
        if model.recipe == recipe and is_cached(store, model)
    ]
    return statistics.median(rates) if rates else None


def _measured_rate(recipe: Recipe) -> float:
    """Images/s of a few training steps and old-model passes on noise."""
    embedder = make_embedder(recipe.from_scratch(), 0)
    images = torch.rand(recipe.batch_size, 3, recipe.image_size, recipe.image_size)
    seconds = []
    for _ in range(DRY_STEPS):
        started = time.perf_counter()
        embedder(images).sum().backward()
        with torch.no_grad():
            embedder(images)
        seconds.append(time.perf_counter() - started)
    return len(images) / min(seconds)
