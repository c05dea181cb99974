"""Any dataset of torchvision by its name, downloaded by torchvision where there is a network.

Write `torchvision:CIFAR100`, `torchvision:Omniglot`, `torchvision:FashionMNIST`. Where the dataset
has a training and a test split, these are used; else half of its classes train. Every test image is
a query against all the others.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from PIL import Image
from pydantic import Field

from bench.decode import Fit, square
from bench.errors import BenchError, unknown
from bench.file_dataset import ROOTS, numbered, training_classes
from bench.images import ArrayImages
from bench.protocol import DatasetAdapter, ImageSet, RetrievalData
from bench.relevance import Relevance
from bench.settings import Settings
from bench.store import Store, digest, source_digest
from bench.validation import SomeImages

# How the constructors call their splits: argument, value for training, value for testing.
SPLITS = (("train", True, False), ("background", True, False), ("split", "train", "test"))


class Torchvision(DatasetAdapter):
    """Images are decoded once and packed; relevant is what shares the class."""

    unkeyed: ClassVar[frozenset[str]] = frozenset({"root"})

    class Config(Settings):
        source: str = Field(description="the name of a class in torchvision.datasets")
        root: Path | None = Field(None, description="download folder; default in the results")
        fit: Fit = Field("stretch", description="how an image becomes square")
        split_seed: int = Field(0, description="chooses training classes where nothing is split")
        options: dict[str, Any] = Field({}, description="further arguments of the class")

    def revision(self) -> str:
        sources = [Path(__file__), Path(inspect.getfile(square))]
        options = self.config.model_dump(mode="json", exclude=set(self.unkeyed))
        return digest([source_digest(sources), options, torchvision.__version__])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        folder = Store(cache).ensure(
            "decoded",
            f"{self.revision()}-{image_size}",
            lambda folder: self._decode(image_size, cache / "downloads", folder),
        )
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        training = np.load(folder / "training.npy", allow_pickle=False)
        train, gallery = (
            ImageSet(
                SomeImages(ArrayImages(pixels), rows),
                numbered(labels[rows]),
                tuple(f"{split}/{row - rows[0]}" for row in rows.tolist()),
            )
            for split, rows in (
                ("train", np.flatnonzero(training)),
                ("test", np.flatnonzero(~training)),
            )
        )
        relevance = Relevance.among_themselves(gallery.labels)
        counts = {"train_images": len(train), "gallery": len(gallery)}
        return RetrievalData(train, gallery, gallery, relevance, counts=counts)

    def _decode(self, size: int, downloads: Path, folder: Path) -> dict[str, Any]:
        """Decode all splits into `pixels.npy` [N, 3, S, S], their labels and what trains."""
        parts = self._open(downloads)
        count = sum(map(len, parts))
        shape = (count, 3, size, size)
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
        labels = np.empty(count, np.int64)
        for row, (image, label) in enumerate(self._items(parts)):
            pixels[row], labels[row] = square(image, size, self.config.fit), label
        pixels.flush()
        if len(parts) == 1:
            training = training_classes(labels, self.config.split_seed)
        else:
            training = np.arange(count) < len(parts[0])
        np.save(folder / "labels.npy", labels)
        np.save(folder / "training.npy", training)
        return {"images": count}

    def _open(self, downloads: Path) -> list[Any]:
        """Open training and test split, or all images where nothing is split."""
        known = [name for name in torchvision.datasets.__all__ if name[0].isupper()]
        if self.config.source not in known:
            raise unknown("torchvision dataset", self.config.source, known)
        made = getattr(torchvision.datasets, self.config.source)
        accepted = inspect.signature(made).parameters
        arguments = dict(self.config.options)
        if "root" in accepted:
            arguments["root"] = self._root(downloads)
        if "download" in accepted:
            arguments["download"] = True
        splits = [split for split in SPLITS if split[0] in accepted and split[0] not in arguments]
        values: list[dict[str, Any]] = [{}]
        if splits:
            name, *both = splits[0]
            values = [{name: value} for value in both]
        try:
            return [made(**arguments, **value) for value in values]
        except Exception as error:  # each dataset fails in its own way
            raise BenchError(
                f"torchvision could not open {self.config.source} ({type(error).__name__}: "
                f"{error}); it needs a network, or its files below "
                f"{arguments.get('root', downloads)}, a folder that "
                "--set torchvision.root=PATH changes"
            ) from error

    def _root(self, downloads: Path) -> Path:
        folder = self.config.root or downloads
        if self.config.root is None and ROOTS in os.environ:
            folder = Path(os.environ[ROOTS]) / "torchvision"
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _items(self, parts: list[Any]) -> Iterator[tuple[Image.Image, int]]:
        """Yield images with their class; raises BenchError where there is no class."""
        for part in parts:
            for row in range(len(part)):
                image, label = part[row]
                if isinstance(label, torch.Tensor | np.generic) and label.ndim == 0:
                    label = label.item()
                if not (isinstance(image, Image.Image) and isinstance(label, int)):
                    raise BenchError(
                        f"torchvision's {self.config.source} gives a {type(image).__name__} with "
                        f"a {type(label).__name__}; expected an image with the number of its class"
                    )
                yield image, label
