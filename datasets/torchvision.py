"""Any dataset of torchvision by its name, downloaded by torchvision where there is a network.

Write `torchvision:CIFAR100`, `torchvision:Omniglot`, `torchvision:FashionMNIST`. Where the dataset
has a training and a test split, these are used; else half of its classes train. A third of the test
images of each class ask, and the others are searched.
"""

from __future__ import annotations

import inspect
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from bench.data.decode import Fit, square
from bench.data.file_dataset import ROOTS
from bench.data.images import ArrayImages
from bench.data.queries import QuerySettings
from bench.data.splits import searched_split, training_classes
from bench.errors import BenchError, unknown
from bench.protocol import DatasetAdapter, RetrievalData
from bench.storage.digest import digest, source_digest
from bench.storage.store import Store

# How the constructors call their splits: argument, value for training, value for testing.
SPLITS = (("train", True, False), ("background", True, False), ("split", "train", "test"))


class Torchvision(DatasetAdapter):
    """Images are decoded once and packed; relevant is what shares the class."""

    unkeyed: ClassVar[frozenset[str]] = frozenset({"root"})

    class Config(QuerySettings):
        source: str = Field(description="the name of a class in torchvision.datasets")
        root: Path | None = Field(None, description="download folder; default in the results")
        fit: Fit = Field("stretch", description="how an image becomes square")
        split_seed: int = Field(0, description="chooses training classes where nothing is split")
        options: dict[str, Any] = Field({}, description="further arguments of the class")

    def revision(self) -> str:
        sources = [Path(__file__), Path(inspect.getfile(square))]
        options = self.config.model_dump(mode="json", exclude=set(self.unkeyed))
        return digest([source_digest(sources), options, version("torchvision")])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        folder = Store(cache).ensure(
            "decoded",
            f"{self.revision()}-{image_size}",
            lambda folder: self._decode(image_size, cache / "downloads", folder),
        )
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        items = np.load(folder / "items.npz", allow_pickle=False)
        training = items["training"]
        named = zip(np.where(training, "train", "test"), items["numbers"], strict=True)
        ids = [f"{split}/{number}" for split, number in named]
        labels, queries = items["labels"], self.config.queries
        groups = list(map(str, labels.tolist()))
        return searched_split(ArrayImages(pixels), labels, ids, training, queries, groups)

    def _decode(self, size: int, downloads: Path, folder: Path) -> dict[str, Any]:
        """Decode all into `pixels.npy` [N, 3, S, S]; keep labels, places and what trains beside."""
        parts = self._open(downloads)
        count = sum(map(len, parts))
        shape = (count, 3, size, size)
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
        labels = np.empty(count, np.int64)
        items = (part[row] for part in parts for row in range(len(part)))
        for row, (image, label) in enumerate(items):
            pixels[row] = square(self._expected(image, Image.Image), size, self.config.fit)
            label = label.item() if getattr(label, "ndim", None) == 0 else label
            labels[row] = self._expected(label, int)
        pixels.flush()
        if len(parts) == 1:
            training = training_classes(labels, self.config.split_seed)
        else:
            training = np.arange(count) < len(parts[0])
        numbers = np.concatenate([np.arange(len(part)) for part in parts])
        np.savez(folder / "items.npz", labels=labels, training=training, numbers=numbers)
        return {"images": count}

    def _expected(self, value: Any, kind: type) -> Any:
        if not isinstance(value, kind):
            raise BenchError(
                f"torchvision's {self.config.source} gives a {type(value).__name__} where an image "
                "with the number of its class is expected"
            )
        return value

    def _open(self, downloads: Path) -> list[Any]:
        """Open training and test split, or all images where nothing is split."""
        from torchvision import datasets  # takes seconds, and few need it

        known = [name for name in datasets.__all__ if name[0].isupper()]
        if self.config.source not in known:
            raise unknown("torchvision dataset", self.config.source, known)
        made = getattr(datasets, self.config.source)
        accepted = inspect.signature(made).parameters
        root = self._root(downloads)
        own = {"root": str(root), "download": True, **self.config.options}
        arguments = {key: own[key] for key in own if key in {*accepted, *self.config.options}}
        split = next((one for one in SPLITS if one[0] in {*accepted} - {*arguments}), None)
        values = [{}] if split is None else [{split[0]: value} for value in split[1:]]
        try:
            return [made(**arguments, **value) for value in values]
        except Exception as error:  # each dataset fails in its own way
            raise BenchError(
                f"torchvision could not open {self.config.source} ({type(error).__name__}: "
                f"{error}); it needs a network, or its files below {root}, a folder that "
                "--set torchvision.root=PATH changes"
            ) from error

    def _root(self, downloads: Path) -> Path:
        if self.config.root is None and ROOTS in os.environ:
            downloads = Path(os.environ[ROOTS]) / "torchvision"
        folder = (self.config.root or downloads).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
