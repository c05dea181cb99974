"""What a plan will cost here: cells, images, hours and disk, before anything is downloaded.

What is there already costs nothing. Hours come from models trained before, else from a dry run of
the recipe's own steps.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group
from rich.filesize import decimal
from rich.table import Table

from bench import registry
from bench.batches import Subset, choose
from bench.dry_run import DryRun, record_bytes, weight_bytes
from bench.errors import BenchError
from bench.file_dataset import FileDataset
from bench.memory import of_cells
from bench.plan import CellSpec, ModelSpec, make_plan
from bench.protocol import ImageSet, Method
from bench.runner import Conduct, is_cached
from bench.store import Store, facts
from bench.suite import Recipe, Side, Suite
from bench.training import Training, has_features
from bench.validation import held_out
from bench.workers import resources

COPIES = 2  # of records: one in the cache, one where people look for them
PUBLISHED = "published counts"


@dataclass(frozen=True)
class Extent:
    """How many images a dataset has.

    `labels` [N] are those of the training images; `queries` the images that ask, embedded on their
    own where they are `apart` from the gallery. `images` can be read for a dry run, if any can.
    """

    labels: NDArray[np.int64]
    queries: int
    gallery: int
    apart: bool
    images: ImageSet | None = None
    _subsets: dict[Any, Subset] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> int:
        return len(np.unique(self.labels))

    def subset(self, model: ModelSpec) -> Subset:
        """Images and classes that a model is trained on."""
        without = None if model.without is None else self._chosen(model.without, model.seed)
        return self._chosen(model.side, model.seed, without)

    def _chosen(self, side: Side, seed: int, without: Subset | None = None) -> Subset:
        place = (side.model_dump_json(exclude={"recipe"}), seed, without and id(without))
        if place not in self._subsets:
            self._subsets[place] = choose(self.labels, side, seed, without)
        return self._subsets[place]

    @property
    def embedded(self) -> dict[str, int]:
        """Images that one model embeds, by split."""
        queries = self.queries if self.apart else 0
        return {"train": len(self.labels), "query": queries, "gallery": self.gallery}


@dataclass(frozen=True)
class Survey:
    """A plan and the extent of its dataset; `note` says why that is not what lies here."""

    plan: list[CellSpec]
    extent: Extent
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """What a plan lacks: work, images, seconds of one device, bytes on disk.

    `cells` are those of the `planned` ones that are not there; `seconds` and `disk` are by stage
    and by kind; `jobs` models are made at a time. `passes` counts training images over all epochs.
    """

    planned: int
    cells: int
    models: int
    extent: Extent
    per_epoch: int
    passes: int
    embedded: int
    seconds: dict[str, float]
    disk: dict[str, int]
    device: str
    jobs: int
    basis: str
    notes: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Hours that the plan takes with `jobs` at a time."""
        return sum(self.seconds.values()) / self.jobs / 3600

    def __rich__(self) -> Group:
        table = Table(box=None, show_header=False, pad_edge=False)
        extent, lines = self.extent, self._lines
        for key, value in (
            (
                "cells to run",
                f"{self.cells:,} of {self.planned:,}, with {self.models:,} models to train",
            ),
            (
                "images",
                f"{len(extent.labels):,} of {extent.classes:,} classes to train on, "
                f"{extent.queries:,} queries, {extent.gallery:,} in the gallery",
            ),
            (
                "to train on",
                f"{self.per_epoch:,} images in one epoch of all models, {self.passes:,} in all",
            ),
            ("to embed", f"{self.embedded:,} images"),
            ("device-hours", lines(self.seconds, lambda seconds: _figures(seconds / 3600))),
            ("device", f"{self.device}; {self.jobs} at a time: about {duration(self.hours)}"),
            ("disk", lines(self.disk, lambda count: decimal(round(count)))),
        ):
            table.add_row(f"[bold]{key}[/]", value)
        return Group(table, f"reckoned {self.basis}", *self.notes)

    @staticmethod
    def _lines(parts: dict[str, float] | dict[str, int], shown: Callable[[float], str]) -> str:
        split = ", ".join(f"{name} {shown(value)}" for name, value in parts.items() if value)
        return f"{shown(sum(parts.values()))}" + (f" ({split})" if split else "")


def _figures(value: float) -> str:
    """Show as many decimals as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "<0.01"


def duration(hours: float) -> str:
    """Say a time in the unit that fits it."""
    return f"{60 * hours:.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"


# ------------------------------------------------------------------------ what a dataset holds


def survey(suite: Suite, store: Store) -> Survey:
    """Plan a suite by what lies here, or by its dataset's published counts where nothing does.

    Without data nothing can be cached, and nothing has a key. Raises BenchError where there are no
    published counts either.
    """
    try:
        plan = make_plan(suite)
        return Survey(plan, counted(plan[0].new, store))
    except BenchError as error:
        options = suite.options.get(suite.dataset.partition(":")[0], {})
        adapter = registry.make_dataset(suite.dataset, options)
        published = adapter.planned() if isinstance(adapter, FileDataset) else {}
        if not {"train_images", "train_classes", "queries", "gallery"} <= set(published):
            raise
        extent = expected(published, suite.split)
        note = f"the counts are the published ones, classes taken to be equally large: {error}"
        return Survey(make_plan(suite, PUBLISHED), extent, note)


def counted(spec: ModelSpec, store: Store) -> Extent:
    """Count the images of a dataset on this machine; none is packed for that."""
    options = json.loads(spec.dataset.options)
    lazy = {"packed": False} if "packed" in options else {}
    dataset = replace(spec.dataset, options=json.dumps(options | lazy))
    data = Training(store).data(replace(spec, dataset=dataset))
    apart = data.query is not data.gallery
    return Extent(data.train.labels, len(data.query), len(data.gallery), apart, data.train)


def expected(published: dict[str, int], split: str) -> Extent:
    """Spread the published number of training images evenly over the published classes."""
    labels = np.arange(published["train_images"]) % published["train_classes"]
    if split == "validation":
        held = held_out(labels)
        return Extent(labels[~held], int(held.sum()), int(held.sum()), apart=False)
    queries, gallery = published["queries"], published["gallery"]
    # Where every item of the gallery is a query there are as many of both.
    return Extent(labels, queries, gallery, apart=queries != gallery)


# ------------------------------------------------------------------------------ what a plan lacks


def estimate(survey: Survey, store: Store, conduct: Conduct) -> Cost:
    """Estimate what a plan lacks costs here, with as many jobs and threads as it will have."""
    plan, extent = survey.plan, survey.extent
    missing = [spec for spec in plan if not is_cached(store, spec)]
    needed = partial(of_cells, missing or plan, conduct.devices)
    jobs, threads = resources(conduct.jobs, conduct.threads, conduct.devices, needed)
    torch.set_num_threads(threads)
    every = _models(plan)
    training = [model for model in _models(missing) if not is_cached(store, model)]
    embeddings = {
        (model, split): extent.embedded[split]
        for model, split in dict.fromkeys(_embeddings(missing))
        if not store.has("embeddings", model.embeddings_key(split))
    }
    sizes = {model: len(extent.subset(model)) for model in training}
    speed = _Speed(store, every, extent)
    seconds = {
        "training": sum(speed.training(model, sizes[model]) for model in training),
        "embedding": sum(
            speed.embedding(model) * count for (model, _), count in embeddings.items() if count
        ),
        "searching": sum(
            speed.searching(spec) * extent.queries * extent.gallery for spec in missing
        ),
    }
    disk = {
        "embeddings": sum(
            4 * count * model.recipe.width for (model, _), count in embeddings.items()
        ),
        "weights": sum(
            weight_bytes(model.recipe, len(extent.subset(model).classes)) for model in training
        ),
        "records": sum(record_rows(spec, extent) * record_bytes(spec.shares) for spec in missing),
        "packed images": _packed_bytes(training, extent),
    }
    return Cost(
        planned=len(plan),
        cells=len(missing),
        models=len(training),
        extent=extent,
        per_epoch=sum(sizes.values()),
        passes=sum(size * model.recipe.epochs for model, size in sizes.items()),
        embedded=sum(embeddings.values()),
        seconds=seconds,
        disk={kind: round(count) for kind, count in disk.items()},
        device=speed.dry.device,
        jobs=jobs,
        basis=speed.basis,
        notes=[survey.note] if survey.note else [],
    )


def record_rows(spec: CellSpec, extent: Extent) -> int:
    """Rows of a cell's records, in all copies: the old system, and each order at every share."""
    return COPIES * extent.queries * (1 + spec.shares * len(spec.orders))


def _models(plan: Sequence[CellSpec]) -> list[ModelSpec]:
    """Every distinct model that has to be trained for a plan."""
    return list(
        dict.fromkeys(
            model.deployed
            for spec in plan
            for model in (*spec.foundations(), *spec.generations.values())
        )
    )


def _embeddings(plan: Sequence[CellSpec]) -> Iterator[tuple[ModelSpec, str]]:
    """Every (model, split) that is embedded for a plan."""
    for spec in plan:
        fits = registry.method_class(spec.new.method).fit is not Method.fit
        needed = [each for model in spec.generations.values() for each in model.needs()]
        for model in {*needed, spec.old, *([spec.new] if fits else [])}:
            yield model.deployed, "train"
        for model in spec.generations.values():
            yield from ((model.deployed, split) for split in ("query", "gallery"))


def _packed_bytes(training: Sequence[ModelSpec], extent: Extent) -> int:
    """Bytes of the images that a dataset decodes once and keeps, at every size that is needed."""
    packed = {
        (size, split)
        for model in training
        if json.loads(model.dataset.options).get("packed")
        for size, split in (
            (model.recipe.crop_from or model.recipe.image_size, "train"),
            *((model.recipe.image_size, split) for split in extent.embedded),
        )
    }
    return sum(3 * size**2 * extent.embedded[split] for size, split in packed)


class _Speed:
    """Seconds of each stage, known from models trained before or measured in a dry run."""

    def __init__(self, store: Store, models: Sequence[ModelSpec], extent: Extent) -> None:
        self.store, self.models, self.extent = store, models, extent
        self.dry = DryRun(extent.classes, extent.images)
        self.measured: dict[tuple[str, str], float] = {}
        self.bases: set[str] = set()

    @property
    def basis(self) -> str:
        return " and ".join(sorted(self.bases)) + "".join(f"; {note}" for note in self.dry.notes)

    def training(self, model: ModelSpec, images: int) -> float:
        """Seconds of a whole training on as many images per epoch."""
        recipe = model.recipe
        batch = min(recipe.batch_size, images)
        steps = recipe.epochs * (images // batch)
        rates = [
            facts(self.store.path("models", other.key))["rates"]["train"]
            for other in self.models
            if (other.recipe, other.method) == (recipe, model.method)
            and is_cached(self.store, other)
        ]
        if rates:
            self.bases.add("from models trained before")
            return float(steps * batch / statistics.median(rates))
        step = self._once("step", recipe, self.dry.training_step) + self._beyond_plain(model)
        if model.old is not None and not has_features(model, model.old):
            step += recipe.batch_size * self._once("forward", model.old.recipe, self.dry.forward)
        return steps * batch / recipe.batch_size * step

    def _beyond_plain(self, model: ModelSpec) -> float:
        """Seconds that a method's own loss adds to a step of the plain classifier."""
        if model.old is None:
            return 0.0
        width, recipe = model.old.recipe.width, model.recipe
        bare = Recipe(width=recipe.width, batch_size=recipe.batch_size, optimizer=recipe.optimizer)

        def measure(method: Method) -> Callable[[Recipe], float]:
            return lambda recipe: self.dry.loss(method, recipe, width)

        method = registry.make_method(model.method, json.loads(model.options))
        try:
            own = self._once(f"{model.method} {model.options} {width}", bare, measure(method))
        except BenchError as error:  # so will its cells end, with this sentence
            self.dry.notes[f"{model.method}: {error}"] = None
            return 0.0
        return max(0.0, own - self._once("plain", bare, measure(Method())))

    def embedding(self, model: ModelSpec) -> float:
        """Seconds per image."""
        return self._once("embed", model.recipe, self.dry.embedding)

    def searching(self, spec: CellSpec) -> float:
        """Seconds per query and item of a whole backfill curve in every order."""

        def measure(recipe: Recipe) -> float:
            return self.dry.search(recipe.width, spec.shares)

        return len(spec.orders) * self._once(f"search {spec.shares}", spec.new.recipe, measure)

    def _once(self, stage: str, recipe: Recipe, measure: Callable[[Recipe], float]) -> float:
        place = (stage, recipe.model_dump_json())
        if place not in self.measured:
            self.bases.add("from a few measured steps")
            self.measured[place] = measure(recipe)
        return self.measured[place]
