"""How fast this machine trains, embeds, backfills and searches, and how near its peak that is.

Everything runs on random images and embeddings of a suite's size, through the very functions that
a suite runs. The peak is measured, too: the fastest of many products of two large square matrices
on the same device and threads, taken before and between the other measurements.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from bench.costs.step import CLASSES, random_context
from bench.data.images import ArrayImages
from bench.data.splits import choose
from bench.errors import BenchError
from bench.evaluation.backfill import hot_refresh
from bench.evaluation.records import REFERENCE_METHOD
from bench.evaluation.throughput import NEAREST, repeated
from bench.plugins import registry
from bench.protocol import ImageSet
from bench.relevance import Relevance
from bench.storage.provenance import device_name, environment
from bench.suites.precision import resolve_precision
from bench.suites.schema import Recipe, Side, Suite
from bench.training.distributed import one_device
from bench.training.embed import embed
from bench.training.learner import Learner
from bench.training.loop import History, train
from bench.training.models import make_embedder, make_head

if TYPE_CHECKING:
    from rich.table import Table

QUERIES, ITEMS, ANSWERS = 1000, 50_000, 10
# What a metric of all ranks must know of every item makes it dearer than one that is cut off.
CURVES = {"AP": 5_000, "AP@100": ITEMS}
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
SECONDS, MOST_BATCHES = 0.5, 16  # of one repetition of a training or an embedding
PEAK_REPEATS = 3


@dataclass(frozen=True)
class Speed:
    """Repeated measurements of one thing, without the warm-up.

    `per_second` counts `unit`s; each takes `operations` multiplications and additions, those of
    matrix products and convolutions. `precision` names the peak that it is compared with.
    """

    name: str
    unit: str
    per_second: tuple[float, ...]
    operations: float
    precision: str

    @property
    def flops(self) -> float:
        """Operations per second at the median speed."""
        return median(self.per_second) * self.operations


@dataclass
class Measured:
    """What was measured, on what; `peaks` in operations per second by number format."""

    device: str
    processor: str
    threads: int
    precision: str
    suite: str
    recipe: Recipe
    peaks: dict[str, float] = field(default_factory=dict)
    speeds: list[Speed] = field(default_factory=list)

    def share(self, speed: Speed) -> float:
        """Share of the measured peak that a speed reaches."""
        return speed.flops / self.peaks[speed.precision]

    def content(self) -> dict[str, Any]:
        """Everything as JSON content."""
        speeds = [
            {
                **asdict(speed),
                "median": median(speed.per_second),
                "flops": speed.flops,
                "share_of_peak": self.share(speed),
            }
            for speed in self.speeds
        ]
        recipe = self.recipe.model_dump(mode="json")
        return {**vars(self), "recipe": recipe, "speeds": speeds}

    def table(self) -> Table:
        """Return what a terminal shows."""
        from rich.table import Table

        table = Table(
            *("", "median", "min – max", "GFLOP/s", "of the peak"),
            box=None,
            pad_edge=False,
            title_justify="left",
            caption_justify="left",
            title=f"{self.device} ({self.processor}), {self.threads} thread(s), {self.precision}: "
            f"{self.recipe.backbone} at {self.recipe.image_size} pixels, batches of "
            f"{self.recipe.batch_size}, {self.recipe.width} dimensions (suite {self.suite})",
            caption=self._caption(),
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for speed in self.speeds:
            low, middle, high = (
                _short(statistic(speed.per_second)) for statistic in (min, median, max)
            )
            table.add_row(
                speed.name,
                f"{middle} {speed.unit}/s",
                f"{low} – {high}",
                f"{speed.flops / 1e9:,.1f}",
                f"{self.share(speed):.0%} {speed.precision}",
            )
        return table

    def _caption(self) -> str:
        peaks = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in self.peaks.items())
        items = ", ".join(f"{metric} {count:,}" for metric, count in CURVES.items())
        return (
            f"Peaks in GFLOP/s, of large matrix products here: {peaks}. Medians of "
            f"{len(self.speeds[0].per_second)} repetitions after a warm-up; operations are those "
            f"of matrix products and convolutions. {QUERIES:,} queries; items of a backfill: "
            f"{items}; of a search {ITEMS:,}."
        )


def _short(value: float) -> str:
    """Write a rate in millions where it is large."""
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,.0f}"


def measure(suite: Suite, method: str, threads: int, repeats: int = 5) -> Measured:
    """Measure a suite's recipe: training with the classifier alone and with `method`, and the rest.

    About half a minute for a small recipe; one made for GPUs takes as long as its batches do.
    """
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    torch.manual_seed(0)
    recipe = suite.recipe.from_scratch()
    recipe = recipe.model_copy(update={"precision": resolve_precision(recipe.precision)})
    fabric = one_device("auto")
    device = fabric.device
    found = Measured(
        device_name(device),
        str(environment()["processor"]),
        threads,
        recipe.precision,
        suite.name,
        recipe,
    )
    trained = dict.fromkeys([REFERENCE_METHOD, method])
    runs: list[Callable[[], Speed]] = [
        *(_trainer(fabric, suite, recipe, name, repeats) for name in trained),
        lambda: _embedding(fabric, recipe, repeats),
        *(
            partial(_backfill, recipe.width, suite.shares, metric, items, repeats)
            for metric, items in CURVES.items()
        ),
        lambda: _search(recipe.width, repeats),
    ]
    for run in runs:
        for precision in dict.fromkeys(["float32", recipe.precision]):
            peak = _product_speed(device, getattr(torch, precision))
            found.peaks[precision] = max(peak, found.peaks.get(precision, 0.0))
        found.speeds.append(run())
    return found


def operations(work: Callable[[], Any]) -> float:
    """Count the multiplications and additions of the matrix products and convolutions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest product of two large matrices."""
    size = PRODUCT_SIZE[device.type]
    left, right = (torch.randn(size, size).to(device, dtype) for _ in range(2))

    def product() -> None:
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * size**3 / min(repeated(product, PEAK_REPEATS))


# ---------------------------------------------------------------------------- what is measured


def _images(recipe: Recipe, count: int) -> ImageSet:
    """Random images of as many classes as there are, up to that of the default dataset."""
    shape = (count, 3, recipe.image_size, recipe.image_size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ids = tuple(map(str, range(count)))
    return ImageSet(ArrayImages(pixels), np.arange(count) % CLASSES, ids)


def _batches_per_repetition(seconds: float) -> int:
    return int(min(max(SECONDS / seconds, 1), MOST_BATCHES))


def _trainer(
    fabric: Fabric, suite: Suite, recipe: Recipe, name: str, repeats: int
) -> Callable[[], Speed]:
    """Make the measurement of the training loop with a method."""
    method_class = registry.method_class(name)
    if not method_class.trains:
        raise BenchError(
            f"the method '{name}' has no training of its own; name one that trains with --method"
        )
    wide = recipe.model_copy(update={"width": recipe.width + method_class.extra_width})
    old_model = make_embedder(recipe, 0).eval().requires_grad_(False).to(fabric.device)

    def made(batches: int, epochs: int) -> Callable[[], History]:
        """Make a training of some epochs of some batches."""
        images = _images(wide, batches * recipe.batch_size)
        subset = choose(images.labels, Side(), 0)
        labels, classes = torch.tensor(subset.labels), len(subset.classes)
        context = random_context(recipe, method_class.extra_width, labels, classes, fabric.device)
        method = registry.make_method(name, suite.options.get(name))
        method.prepare(context)
        method.to(fabric.device)
        learner = Learner(
            make_embedder(wide, 1), make_head(context.class_count, wide.width, 1), method
        )
        several = wide.model_copy(update={"epochs": epochs})
        old = old_model if method_class.needs_old else None
        settings = context, old, several, 0, lambda done, total: None
        return lambda: train(fabric, learner, images, subset, *settings)

    def run() -> Speed:
        one_step = operations(made(1, 1))
        batches = _batches_per_repetition(made(1, 2)().seconds[1])
        size = recipe.batch_size
        seconds = made(batches, repeats + 1)().seconds[1:]  # the first epoch is the warm-up
        return Speed(
            f"training, {name}",
            "images",
            tuple(batches * size / each for each in seconds),
            one_step / size,
            recipe.precision,
        )

    return run


def _embedding(fabric: Fabric, recipe: Recipe, repeats: int) -> Speed:
    """Measure images → embeddings in a file."""
    embedder = make_embedder(recipe, 1).to(fabric.device)
    with tempfile.TemporaryDirectory() as folder:

        def work(images: ImageSet) -> None:
            embed(fabric, embedder, images, recipe.width, Path(folder) / "embeddings.npy")

        batch = _images(recipe, recipe.batch_size)
        one_batch = operations(lambda: work(batch))
        batches = _batches_per_repetition(min(repeated(lambda: work(batch), 2)))
        images = _images(recipe, batches * recipe.batch_size)
        seconds = repeated(lambda: work(images), repeats)
    return Speed(
        "embedding",
        "images",
        tuple(len(images) / each for each in seconds),
        one_batch / len(batch),
        recipe.precision,
    )


def _backfill(width: int, shares: int, metric: str, items: int, repeats: int) -> Speed:
    """Measure the hot-refresh curve: every query scored with every item, old and new."""
    rng = np.random.default_rng(0)
    query, old, new = (_unit(rng, count, width) for count in (QUERIES, items, items))
    answers = [rng.choice(items, ANSWERS, replace=False) for _ in range(QUERIES)]
    for gallery in (old, new):
        for vector, rows in zip(query, answers, strict=True):
            gallery[rows] += 0.5 * vector  # most answers stand among the nearest items
    relevance = Relevance.from_lists(answers, [[]] * QUERIES, items)
    order, places = rng.permutation(items), np.linspace(0, 1, shares)
    seconds = repeated(
        lambda: hot_refresh(query, new, query, old, relevance, order, places, metric), repeats
    )
    return Speed(
        f"backfill, {metric}",
        "pairs",
        tuple(QUERIES * items / each for each in seconds),
        2 * 2 * width,
        "float32",
    )


def _search(width: int, repeats: int) -> Speed:
    """Measure searches of a flat FAISS index."""
    rng = np.random.default_rng(0)
    query, gallery = _unit(rng, QUERIES, width), _unit(rng, ITEMS, width)
    index = faiss.IndexFlatIP(width)
    index.add(gallery)
    seconds = repeated(lambda: index.search(query, NEAREST), repeats)
    return Speed(
        "search, flat index",
        "searches",
        tuple(QUERIES / each for each in seconds),
        2 * ITEMS * width,
        "float32",
    )


def _unit(rng: np.random.Generator, count: int, width: int) -> NDArray[np.float32]:
    array = rng.standard_normal((count, width), dtype=np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    return array
