"""What a plan will cost here: cells, images, hours and disk, before anything is downloaded.

What is there already costs nothing. Hours come from models trained before, else from a dry run of
the recipe's own steps.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group
from rich.filesize import decimal
from rich.table import Table

from bench.costs.decoding import decoding_seconds
from bench.costs.dry_run import DryRun, record_bytes, weight_bytes
from bench.costs.searching import Searches, curve_seconds, search_seconds
from bench.costs.timings import Timings
from bench.data.file_dataset import FileDataset
from bench.data.queries import THIRD, split_queries
from bench.data.splits import Subset, choose, held_out
from bench.errors import BenchError
from bench.execution.resources import idle_cores, resources
from bench.pipeline.finished import Finished, uses_precomputed
from bench.pipeline.keys import stage_code
from bench.pipeline.memory import of_cells
from bench.pipeline.plan import make_plan
from bench.pipeline.runner import is_cached
from bench.pipeline.specs import CellSpec, EmbeddingsSpec, ModelSpec, OldSearchSpec, Spec, closure
from bench.pipeline.tasks import RunSettings
from bench.plugins import registry
from bench.protocol import Images, Method
from bench.storage.manifest import stage_metadata
from bench.storage.metadata import ModelMetadata
from bench.storage.provenance import environment, training_packages
from bench.storage.results import timings_folder
from bench.storage.store import Store
from bench.suites.schema import Recipe, Rounding, Side, Suite

COPIES = 2  # of records: one in the cache, one where people look for them
PUBLISHED = "published counts"
ANSWERS = 10  # of a query, where no data tell
FORWARD = 1 / 3  # of a training step: its backward pass takes twice as long as its forward pass
FEW_CLASSES = (2048, 8192)  # at which losses are measured, and scaled to more
# Settings of a recipe that change no step's time: one measurement serves all their values.
TIMELESS = {
    *("pretrained", "weights", "gem_power", "share_rounding", "epochs", "learning_rate"),
    *("momentum", "weight_decay", "decays", "warmup_epochs", "warmup_from", "cosine_over"),
    *("temperature", "crop_area", "crop_ratio", "flip"),
}


@dataclass(frozen=True)
class Extent:
    """How many images a dataset has.

    `labels` [N] are those of the training images; `queries` the images that ask, embedded on their
    own where they are `apart` from the gallery. `images` can be read, if any can. A query has
    `answers`, by which `metric` judges a ranking.
    """

    labels: NDArray[np.int64]
    queries: int
    gallery: int
    apart: bool
    images: Images | None = None
    metric: str = "AP"
    answers: int = ANSWERS
    _subsets: dict[Any, Subset] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> int:
        """Number of training classes."""
        return len(np.unique(self.labels))

    def subset(self, model: ModelSpec) -> Subset:
        """Images and classes that a model is trained on."""
        rounding, without = model.recipe.share_rounding, None
        if model.without is not None:
            without = self._chosen(model.without, model.seed, rounding)
        return self._chosen(model.side, model.seed, rounding, without)

    def _chosen(
        self, side: Side, seed: int, rounding: Rounding, without: Subset | None = None
    ) -> Subset:
        place = (side.model_dump_json(exclude={"recipe"}), seed, rounding, without and id(without))
        if place not in self._subsets:
            self._subsets[place] = choose(self.labels, side, seed, without, rounding)
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
                "runs to make",
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
        return Group(table, f"Estimated {self.basis}.", *self.notes)

    @staticmethod
    def _lines(parts: dict[str, float] | dict[str, int], shown: Callable[[float], str]) -> str:
        split = ", ".join(f"{name} {shown(value)}" for name, value in parts.items() if value)
        return f"{shown(sum(parts.values()))}" + (f" ({split})" if split else "")


def _figures(value: float) -> str:
    """Show as many decimals as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "<0.01"


def duration(hours: float) -> str:
    """State a time in the unit that fits it."""
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
        counts = {"train_images", "train_classes", "queries", "gallery"}
        if not isinstance(adapter, FileDataset) or not counts <= set(adapter.planned()):
            raise
        extent = replace(expected(adapter.planned(), suite.split), metric=adapter.metric)
        note = f"Dataset not found; using its published image counts and equal class sizes: {error}"
        return Survey(make_plan(suite, PUBLISHED), extent, note)


def counted(spec: ModelSpec, store: Store) -> Extent:
    """Count the images of a dataset on this machine; none is packed for that."""
    options = json.loads(spec.dataset.options)
    lazy = {"packed": False} if "packed" in options else {}
    dataset = replace(spec.dataset, options=json.dumps(options | lazy))
    data = Finished(store, torch.device("cpu")).data(replace(spec, dataset=dataset))
    apart = data.query is not data.gallery
    answers = max(1, round(len(data.relevance.relevant.rows) / max(1, len(data.query))))
    return Extent(
        data.train.labels,
        len(data.query),
        len(data.gallery),
        apart,
        data.train.images,
        data.metric,
        answers,
    )


def expected(published: dict[str, int], split: str) -> Extent:
    """Spread the published number of training images evenly over the published classes."""
    labels = np.arange(published["train_images"]) % published["train_classes"]
    if split == "validation":
        held = held_out(labels)
        names = list(map(str, range(int(held.sum()))))
        asking, searched = split_queries(labels[held], names, THIRD)
        return Extent(labels[~held], len(asking), len(searched), apart=True)
    queries, gallery = published["queries"], published["gallery"]
    # Where every item of the gallery is a query there are as many of both.
    return Extent(labels, queries, gallery, apart=queries != gallery)


# ------------------------------------------------------------------------------ what a plan lacks


def estimate(
    survey: Survey, store: Store, settings: RunSettings, images_per_s: float | None = None
) -> Cost:
    """Estimate what a plan lacks costs here, with as many jobs and threads as it will have.

    With `images_per_s`, the plain training of every model is taken to be so fast on its device.
    """
    plan, extent = survey.plan, survey.extent
    missing = [spec for spec in plan if not is_cached(store, spec)]
    needed = partial(of_cells, missing or plan, settings.devices)
    jobs, threads = resources(settings.jobs, settings.threads, settings.devices, needed)
    torch.set_num_threads(threads)
    missing_parts = [
        spec for spec in closure(missing) if not store.has(spec.stage, _distinct(spec, extent).key)
    ]
    training = [spec for spec in missing_parts if isinstance(spec, ModelSpec)]
    embeddings = {
        spec: extent.embedded[spec.split]
        for spec in missing_parts
        if isinstance(spec, EmbeddingsSpec)
    }
    sizes = {model: len(extent.subset(model)) for model in training}
    every = [spec for spec in closure(plan) if isinstance(spec, ModelSpec)]
    readers = idle_cores(threads) if settings.readers is None else settings.readers
    speed = _Speed(store, every, extent, threads, readers, images_per_s)
    seconds = {
        "training": sum(speed.training(model, sizes[model]) for model in training),
        "embedding": sum(
            speed.embedding(spec.model) * count for spec, count in embeddings.items() if count
        ),
        "decoding once": sum(
            extent.embedded[split] * speed.decoding(size) / threads
            for size, split in _packed(training, extent)
        ),
        "searching": sum(
            speed.old_search(spec) for spec in missing_parts if isinstance(spec, OldSearchSpec)
        )
        + sum(speed.curves(spec) for spec in missing),
    }
    disk = {
        "embeddings": sum(
            4 * count * spec.model.recipe.width for spec, count in embeddings.items()
        ),
        "weights": sum(
            weight_bytes(model.recipe, len(extent.subset(model).classes)) for model in training
        ),
        "records": sum(
            COPIES * record_bytes(spec.shares, record_rows(spec, extent)) for spec in missing
        ),
        "packed images": sum(
            3 * size**2 * extent.embedded[split] for size, split in _packed(training, extent)
        ),
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
        notes=[*filter(None, [survey.note]), *speed.reading.values()],
    )


def record_rows(spec: CellSpec, extent: Extent) -> int:
    """Rows of a run's records: the old system, and each order at every share."""
    return extent.queries * (1 + spec.shares * len(spec.orders))


def _distinct(spec: Spec, extent: Extent) -> Spec:
    """Return the spec that is made in place of another: where queries are the gallery, once."""
    if isinstance(spec, EmbeddingsSpec) and spec.split == "query" and not extent.apart:
        return EmbeddingsSpec(spec.model, "gallery")
    return spec


def _packed(training: Sequence[ModelSpec], extent: Extent) -> set[tuple[int, str]]:
    """Sizes and splits of images that a dataset decodes once and keeps."""
    return {
        (size, split)
        for model in training
        if _keeps_packed(model)
        for size, split in (
            (model.recipe.read_size, "train"),
            *((model.recipe.image_size, split) for split in extent.embedded),
        )
    }


def _keeps_packed(model: ModelSpec) -> bool:
    return bool(json.loads(model.dataset.options).get("packed"))


class _Speed:
    """Seconds of each stage, known from models trained before or measured in a dry run."""

    def __init__(
        self,
        store: Store,
        models: Sequence[ModelSpec],
        extent: Extent,
        threads: int = 1,
        readers: int = 0,
        images_per_s: float | None = None,
    ) -> None:
        self.store, self.models, self.extent = store, models, extent
        self.threads, self.readers = threads, readers
        self.images_per_s = images_per_s
        self.dry = DryRun(extent.classes)
        self.measured: dict[str, float] = {}
        self.reading: dict[tuple[str, int], str] = {}  # what decoding asks of this machine
        self.bases: set[str] = set()

    @cached_property
    def timings(self) -> Timings:
        """What was measured here before, in the folder of results."""
        machine = {
            "device": self.dry.device,
            "processor": environment()["processor"],
            "packages": training_packages(),
            "code": [stage_code("training"), stage_code("records")],
        }
        return Timings(timings_folder(self.store.root), machine)

    @property
    def basis(self) -> str:
        return " and ".join(sorted(self.bases)) + "".join(f"; {note}" for note in self.dry.notes)

    def training(self, model: ModelSpec, images: int) -> float:
        """Seconds of a whole training on as many images per epoch."""
        recipe = model.recipe
        batch = min(recipe.batch_size, images)
        steps = recipe.epochs * (images // batch)
        rates = [
            ModelMetadata.model_validate(
                stage_metadata(self.store.path(other.stage, other.key))
            ).rates["train"]
            for other in self.models
            if (other.recipe, other.method) == (recipe, model.method)
            and is_cached(self.store, other)
        ]
        if rates and not self.images_per_s:
            self.bases.add("from models trained before")
            return float(steps * batch / statistics.median(rates))
        step = self._once("step", recipe, self.dry.training_step) + self._beyond_plain(model)
        if model.old is not None and not uses_precomputed(model, model.old):
            step += recipe.batch_size * self._once("forward", model.old.recipe, self.dry.forward)
        batches = steps * batch / recipe.batch_size
        decoding = recipe.batch_size * self._decoding(model, True)
        if decoding:
            self._tell_cores(recipe, step, decoding)
        return batches * self._read(step, decoding)

    def _tell_cores(self, recipe: Recipe, step: float, decoding: float) -> None:
        """State how many cores have to decode, lest the device waits."""
        size, core = recipe.batch_size, recipe.batch_size / decoding
        here = self.readers or "none beside its own threads"
        told = (
            f"Decoding: {recipe.backbone} takes {size / step:,.0f} images/s here, a core decodes "
            f"{core:,.0f}/s: {_figures(decoding / step)} cores of readers keep it busy; there are "
            f"{here}."
        )
        self.reading.setdefault((recipe.backbone, recipe.image_size), told)

    def _read(self, model: float, decoding: float) -> float:
        """Seconds of work on some images, with one core's seconds of decoding them.

        Readers decode while the model works; without, its own threads do so in between.
        """
        if self.readers:
            return max(model, decoding / self.readers)
        return model + decoding / self.threads

    def _decoding(self, model: ModelSpec, training: bool) -> float:
        """Seconds in which one core decodes an image that a model trains on, or embeds."""
        recipe = model.recipe
        windows = recipe if training and recipe.crop_from == "original" else None
        decoded = self.extent.images is None or getattr(self.extent.images, "decodes", False)
        if recipe.embeddings is not None or not decoded:
            return 0.0
        if _keeps_packed(model) and windows is None:
            return 0.0
        return self.decoding(recipe.read_size if training else recipe.image_size, windows)

    def decoding(self, size: int, windows: Recipe | None = None) -> float:
        """Seconds in which one core decodes an image."""
        place = f"decode {size} {windows.model_dump_json() if windows else ''}"
        if place not in self.measured:
            self.measured[place] = decoding_seconds(self.extent.images, size, windows)
        return self.measured[place]

    def _beyond_plain(self, model: ModelSpec) -> float:
        """Seconds that a method's own loss adds to a step of the plain classifier."""
        if model.old is None or self.images_per_s:
            return 0.0
        width, recipe = model.old.recipe.width, model.recipe
        bare = Recipe(width=recipe.width, batch_size=recipe.batch_size, optimizer=recipe.optimizer)
        method = registry.make_method(model.method, json.loads(model.options))

        def beyond(classes: int) -> float:
            dry, place = replace(self.dry, classes=classes), f"{width} {classes}"

            def loss(name: str, made: Method) -> float:
                return self._once(f"{name} {place}", bare, lambda like: dry.loss(made, like, width))

            own = loss(f"{model.method} {model.options}", method)
            return max(0.0, own - loss("plain", Method()))

        try:
            return _scaled(beyond, self.extent.classes)
        except BenchError as error:  # so will its cells end, with this sentence
            self.dry.notes[f"{model.method}: {error}"] = None
            return 0.0

    def embedding(self, model: ModelSpec) -> float:
        """Seconds per image."""
        embedding = self._once("embed", model.recipe, self.dry.embedding)
        return self._read(embedding, self._decoding(model, False))

    def old_search(self, spec: OldSearchSpec) -> float:
        """Seconds in which the old system answers all queries."""
        return self._searched(search_seconds, spec.old.recipe.width, 1)

    def curves(self, spec: CellSpec) -> float:
        """Seconds of the backfill curves of a run, in every order."""
        return len(spec.orders) * self._searched(curve_seconds, spec.new.recipe.width, spec.shares)

    def _searched(self, measure: Callable[[Searches], float], width: int, shares: int) -> float:
        of = self.extent
        place = Searches(of.queries, of.gallery, of.answers, of.metric, width, shares)
        return self._kept((measure.__name__, asdict(place)), lambda: measure(place))

    def _once(self, stage: str, recipe: Recipe, measure: Callable[[Recipe], float]) -> float:
        """Return the seconds of a stage: given, measured here before, or measured now."""
        given = self._given(stage, recipe)
        if given is not None:
            self.bases.add(f"from {self.images_per_s:,.5g} images/s of training, as given")
            return given
        place = (stage, recipe.model_dump_json(exclude=TIMELESS), self.extent.classes)
        return self._kept(place, lambda: measure(recipe))

    def _kept(self, place: tuple[Any, ...], measure: Callable[[], float]) -> float:
        """Measure what this plan and those before it have not."""
        if str(place) not in self.measured:
            self.measured[str(place)], known = self.timings.seconds(place, measure, self.dry.notes)
            self.bases.add(f"from a few steps measured {'before' if known else 'now'}")
        return self.measured[str(place)]

    def _given(self, stage: str, recipe: Recipe) -> float | None:
        """Return the seconds that a given rate of training means for a stage, if it does."""
        if not self.images_per_s:
            return None
        images = {"step": recipe.batch_size, "forward": FORWARD, "embed": FORWARD}.get(stage)
        return None if images is None else images / self.images_per_s


def _scaled(seconds: Callable[[int], float], classes: int) -> float:
    """Measure at few classes; of more, follow the line through two measurements."""
    few, more = FEW_CLASSES
    if classes <= more:
        return seconds(classes)
    low, high = seconds(few), seconds(more)
    return high + max(0.0, high - low) / (more - few) * (classes - more)
