"""What a recipe's steps take here: the real loop, the real embedding and search, for seconds.

Batches grow until one is whole or takes long; then the line through the last two tells what a whole
one takes: what a step costs whatever its size, and what an image adds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bench.data.decode import Window
from bench.data.precomputed import read_precomputed
from bench.data.splits import Subset
from bench.evaluation import records
from bench.evaluation.metrics import SUCCESS_AT
from bench.protocol import Context, Images, ImageSet, Method
from bench.suites.schema import Recipe
from bench.training.distributed import one_device
from bench.training.embed import embed
from bench.training.learner import Learner
from bench.training.loop import train
from bench.training.models import PrecomputedEmbedder, make_embedder, make_head

SMALLEST, GROWTH = 2, 2  # images of the first batch that is tried; how much larger the next is
LONGEST = 1.0  # seconds after which no larger batch is tried
STEPS, REPEATS, EMBEDDED = 8, 2, 512
ROWS = 20_000


class Noise:
    """As many images in memory as are asked for, or vectors: one of random content, repeated."""

    def __init__(self, count: int, one: torch.Tensor) -> None:
        self.count, self.one = count, one

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        """Return uint8 [B, 3, S, S] or float32 [B, F]."""
        return self.one.repeat(len(rows), *[1] * (self.one.ndim - 1))

    def crops(self, rows: Sequence[int], windows: Sequence[Window], size: int) -> torch.Tensor:
        """Return as many images, which have the size of a crop."""
        return self.read(rows)


@dataclass
class DryRun:
    """Measures steps on `device`, with random images in memory: decoding is measured by itself.

    `notes` collects what was not measured as it will be.
    """

    classes: int
    accelerator: str = "auto"
    notes: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fabric = one_device(self.accelerator)

    @property
    def device(self) -> str:
        """Name of the device that was measured."""
        if self.fabric.device.type == "cuda":
            return torch.cuda.get_device_name(self.fabric.device)
        return f"{self.fabric.device.type}, {torch.get_num_threads()} threads"

    def training_step(self, recipe: Recipe) -> float:
        """Seconds of a step of the plain classifier with a batch of images in memory."""
        learner = Learner(
            make_embedder(recipe.from_scratch(), 0),
            make_head(self.classes, recipe.width, 0),
            Method(),
        )

        def seconds(batch: int, steps: int) -> float:
            context = self._context(recipe, batch * steps)
            return self._train(
                learner,
                recipe,
                self._images(batch * steps, recipe, recipe.read_size),
                context,
                batch,
            )

        return self._whole(seconds, recipe.batch_size)

    def loss(self, method: Method, recipe: Recipe, old_width: int) -> float:
        """Seconds of one step without backbones: loss, backward pass and optimiser on vectors.

        The old model knows all classes. Raises BenchError where the method cannot be prepared for
        these widths and classes.
        """
        method.prepare(self._context(recipe, STEPS * recipe.batch_size, old_width))
        embedder = PrecomputedEmbedder(recipe.width, recipe.width)
        learner = Learner(embedder, make_head(self.classes, recipe.width, 0), method)

        def seconds(batch: int, steps: int) -> float:
            source = Noise(batch * steps, torch.randn(1, recipe.width))
            context = self._context(recipe, batch * steps, old_width)
            return self._train(learner, recipe, source, context, batch)

        return self._whole(seconds, recipe.batch_size)

    def _train(
        self, learner: Learner, recipe: Recipe, source: Images, context: Context, batch: int
    ) -> float:
        """Seconds of one step of the real loop over all of `source`."""
        count = len(source)
        short = recipe.model_copy(update={"batch_size": batch, "epochs": REPEATS})
        labels = context.labels.cpu().numpy()
        subset = Subset(np.arange(count), np.arange(self.classes), labels)
        images = ImageSet(source, labels, ("",) * count)
        history = train(
            self.fabric, learner, images, subset, context, None, short, 0, lambda *_: None
        )
        return min(history.seconds[1:]) / (count // batch)

    def embedding(self, recipe: Recipe) -> float:
        """Seconds per image of embedding images in memory."""
        embedder = make_embedder(recipe.from_scratch(), 0).to(self.fabric.device)

        def seconds(batch: int, steps: int) -> float:
            source = self._images(batch * steps, recipe, recipe.image_size)
            images = ImageSet(source, np.zeros(len(source), np.int64), ("",) * len(source))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "embeddings.npy"
                return batch / embed(self.fabric, embedder, images, recipe.width, path)

        return self._whole(seconds, EMBEDDED) / EMBEDDED

    def forward(self, recipe: Recipe) -> float:
        """Seconds per image of a frozen old model's pass over a batch in memory."""
        embedder = make_embedder(recipe.from_scratch(), 0).eval().to(self.fabric.device)
        size = recipe.image_size

        def seconds(batch: int, steps: int) -> float:
            images = self.fabric.to_device(torch.rand(batch, 3, size, size))
            taken = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                with torch.no_grad():
                    embedder(images).sum().item()
                taken.append(time.perf_counter() - started)
            return min(taken)

        return self._whole(seconds, recipe.batch_size) / recipe.batch_size

    def _context(self, recipe: Recipe, count: int, old_width: int = 0) -> Context:
        """A context of random old embeddings of `count` images, all of which are stored."""

        def unit(*shape: int) -> torch.Tensor:
            return self.fabric.to_device(functional.normalize(torch.randn(shape), dim=1))

        places = torch.arange(self.classes)
        return Context(
            old_width=old_width,
            new_width=recipe.width,
            class_count=self.classes,
            temperature=recipe.temperature,
            old_head=unit(self.classes, old_width),
            old_row=self.fabric.to_device(places),
            labels=self.fabric.to_device(torch.arange(count) % self.classes),
            old_embeddings=unit(count, old_width),
            independent_embeddings=unit(count, recipe.width),
            independent_head=unit(self.classes, recipe.width),
            class_ids=self.fabric.to_device(places),
            dataset_classes=self.classes,
            old_is_stored=True,
        )

    def _images(self, count: int, recipe: Recipe, side: int) -> Images:
        """Random images in memory, `side` pixels large, or vectors like those that are given."""
        if recipe.embeddings is None:
            return Noise(count, torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8))
        return Noise(count, torch.randn(1, read_precomputed(recipe.embeddings).width))

    def _whole(self, seconds: Callable[[int, int], float], batch: int) -> float:
        """Seconds of a step with `batch` images; `seconds(size, steps)` times steps of one size.

        Raises torch.OutOfMemoryError when memory does not hold the smallest batch.
        """
        sizes: list[int] = []
        taken: list[float] = []
        size = min(SMALLEST, batch)
        while len(sizes) < 2 or taken[-1] < LONGEST:
            steps = STEPS if size == batch and taken and STEPS * taken[-1] < LONGEST else 1
            try:
                taken.append(seconds(size, steps))
            except torch.OutOfMemoryError:
                if len(sizes) < 2:
                    raise
                self.notes[f"memory holds {sizes[-1]} of the {batch} images of a batch"] = None
                break
            sizes.append(size)
            if size == batch:
                return taken[-1]
            size = min(GROWTH * size, batch)
        self.notes["large batches are extrapolated from small ones"] = None
        added = (taken[-1] - taken[-2]) / (sizes[-1] - sizes[-2])
        return taken[-1] + max(0.0, added) * (batch - sizes[-1])


def weight_bytes(recipe: Recipe, classes: int) -> int:
    """Bytes of a trained model's tensors: backbone, pooling, projection and classifier."""
    return _embedder_bytes(recipe.model_dump_json()) + 4 * classes * recipe.width


@cache
def _embedder_bytes(recipe: str) -> int:
    embedder = make_embedder(Recipe.model_validate_json(recipe).from_scratch(), 0)
    tensors = embedder.state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def record_bytes(shares: int, rows: float) -> float:
    """Bytes of a run's records of so many rows: those of a table of random curves, and the rest."""
    least, most = _table_bytes(shares, 1), _table_bytes(shares, max(2, ROWS // shares))
    per_row = (most[0] - least[0]) / (most[1] - least[1])
    return least[0] + per_row * (rows - least[1])


@cache
def _table_bytes(shares: int, queries: int) -> tuple[int, int]:
    """Bytes and rows of the records of random curves of some queries."""
    generator = np.random.default_rng(0)
    ids = np.array([f"query-{number:016x}" for number in range(queries)])
    groups = [f"group-{number // 10:016x}" for number in range(queries)]
    success = generator.random((shares, len(SUCCESS_AT), queries)) < 0.5
    curve = generator.random((shares, queries))
    grid = np.linspace(0, 1, shares)
    rows = records.frame(ids, grid, curve, success, "refreshed", "random", groups)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        pq.write_table(pa.Table.from_pandas(rows), path, compression=records.COMPRESSION)
        return path.stat().st_size, len(rows)
