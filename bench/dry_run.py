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
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from bench import backfill, records
from bench.batches import Subset
from bench.embed import embed
from bench.features import read_features
from bench.models import make_embedder, make_head
from bench.protocol import Context, Images, ImageSet, Method
from bench.relevance import Relevance
from bench.suite import Recipe
from bench.train import Task, train
from bench.validation import SomeImages

SMALLEST, GROWTH = 2, 2  # images of the first batch that is tried; how much larger the next is
LONGEST = 1.0  # seconds after which no larger batch is tried
STEPS, REPEATS, EMBEDDED = 8, 2, 512
QUERIES, GALLERY, ROWS = 64, 8192, 20_000


class Noise:
    """As many random images as are asked for, in memory, or random vectors where a recipe has any.

    Raises BenchError for a file of vectors that cannot be read.
    """

    def __init__(self, count: int, recipe: Recipe) -> None:
        self.count = count
        if recipe.features is None:
            side = recipe.image_size
            self.one = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        else:
            self.one = torch.randn(1, read_features(recipe.features).width)

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        """Return uint8 [B, 3, S, S] or float32 [B, F]."""
        return self.one.repeat(len(rows), *[1] * (self.one.ndim - 1))


@dataclass
class DryRun:
    """Measures steps on `device`, with images of `data`, or random ones where it has not the like.

    `notes` collects what was not measured as it will be.
    """

    classes: int
    data: ImageSet | None = None
    accelerator: str = "auto"
    notes: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fabric = Fabric(accelerator=self.accelerator, devices=1)

    @property
    def device(self) -> str:
        """Name of the device that was measured."""
        if self.fabric.device.type == "cuda":
            return torch.cuda.get_device_name(self.fabric.device)
        return f"{self.fabric.device.type}, {torch.get_num_threads()} threads"

    def training_step(self, recipe: Recipe) -> float:
        """Seconds of one step of the plain classifier with the recipe's batch, loading included."""
        head = make_head(self.classes, recipe.width, 0)
        embedder = make_embedder(recipe.from_scratch(), 0)

        def seconds(batch: int, steps: int) -> float:
            short = recipe.model_copy(update={"batch_size": batch, "epochs": REPEATS})
            images = self._images(batch * steps, recipe)
            labels = np.arange(len(images)) % self.classes
            subset = Subset(np.arange(len(images)), np.arange(self.classes), labels)
            context = self._without_old(recipe, labels)
            task = Task(embedder, head, Method())
            history = train(
                self.fabric, task, images, subset, context, None, short, 0, lambda *_: None
            )
            return min(history.seconds[1:]) / (len(images) // batch)

        return self._whole(seconds, recipe.batch_size)

    def embedding(self, recipe: Recipe) -> float:
        """Seconds per image of embedding, loading included."""
        embedder = make_embedder(recipe.from_scratch(), 0).to(self.fabric.device)

        def seconds(batch: int, steps: int) -> float:
            images = self._images(batch * steps, recipe)
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

    def search(self, width: int, shares: int) -> float:
        """Seconds per pair of query and item that a whole backfill curve takes."""
        generator = np.random.default_rng(0)

        def vectors(count: int) -> NDArray[np.float32]:
            return generator.normal(size=(count, width)).astype(np.float32)

        relevance = Relevance.from_labels(np.arange(QUERIES), np.arange(GALLERY) % QUERIES)
        query, old, new = vectors(QUERIES), vectors(GALLERY), vectors(GALLERY)
        started = time.perf_counter()
        backfill.search(query, old, relevance)
        backfill.hot_refresh(
            query, new, query, old, relevance, np.arange(GALLERY), np.linspace(0, 1, shares)
        )
        return (time.perf_counter() - started) / (QUERIES * GALLERY)

    def _without_old(self, recipe: Recipe, labels: NDArray[np.int64]) -> Context:
        to_device = self.fabric.to_device
        return Context(
            old_width=0,
            new_width=recipe.width,
            class_count=self.classes,
            temperature=recipe.temperature,
            old_head=to_device(torch.zeros(0, 0)),
            old_row=to_device(torch.full((self.classes,), -1)),
            labels=to_device(torch.from_numpy(labels)),
            old_embeddings=to_device(torch.zeros(len(labels), 0)),
        )

    def _images(self, count: int, recipe: Recipe) -> ImageSet:
        source: Images = Noise(count, recipe)
        if self.data is not None and self.data.images.read([0]).shape == source.read([0]).shape:
            rows = np.linspace(0, len(self.data) - 1, count).astype(np.int64)
            source = SomeImages(self.data.images, rows)
        return ImageSet(source, np.zeros(count, np.int64), ("",) * count)

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
        self.notes["large batches reckoned from small ones"] = None
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


@cache
def record_bytes(shares: int) -> float:
    """Bytes per row of a cell's records, of a table written with random curves."""
    generator = np.random.default_rng(0)
    queries = max(1, ROWS // shares)
    ids = np.array([f"query-{number:016x}" for number in range(queries)])
    success = generator.random((shares, len(records.SUCCESS_AT), queries)) < 0.5
    curve = generator.random((shares, queries))
    rows = records.frame(ids, np.linspace(0, 1, shares), curve, success, "refreshed", "random")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        records.write(path, rows, {})
        return path.stat().st_size / len(rows)
