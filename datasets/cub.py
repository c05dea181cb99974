"""CUB-200-2011 birds (Wah et al., 2011): classes 1–100 train, 101–200 are query and gallery.

In the root lie `images.txt`, `image_class_labels.txt` and `images/<class>/<image>.jpg`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.data.file_dataset import Contents, FileDataset, Files
from bench.data.tables import read_words, whole_numbers
from bench.errors import BenchError

TRAINING_CLASSES = 100


class CaltechBirds(FileDataset):
    """Every test image is a query against all the others."""

    published: ClassVar[dict[str, int]] = {
        "train_images": 5_864,
        "train_classes": 100,
        "queries": 5_924,
        "gallery": 5_924,
    }

    def index_files(self) -> Sequence[Path]:
        return [self.root / "images.txt", self.root / "image_class_labels.txt"]

    def contents(self) -> Contents:
        images_path, labels_path = self.index_files()
        images = read_words(images_path, ["image_id", "path"])
        classes = read_words(labels_path, ["image_id", "class_id"])
        for table, path in ((images, images_path), (classes, labels_path)):
            for line in table.index[table["image_id"].duplicated()][:1]:
                raise BenchError(f"{path} line {line} repeats image {table['image_id'][line]}")
        numbers = whole_numbers(classes, "class_id", labels_path)
        class_of = dict(zip(classes["image_id"], numbers.tolist(), strict=True))
        for one, other, path, lacks in (
            (images, classes, images_path, f"has no class in {labels_path}"),
            (classes, images, labels_path, f"is not listed in {images_path}"),
        ):
            for line in one.index[~one["image_id"].isin(other["image_id"])][:1]:
                raise BenchError(f"{path} line {line}: image {one['image_id'][line]} {lacks}")
        labels = np.array([class_of[image] for image in images["image_id"]])
        files = Files(
            [f"images/{path}" for path in images["path"]],
            labels - 1,
            images["path"].tolist(),
            source=images_path,
            lines=images.index.to_numpy(np.int64),
        )
        training = labels <= TRAINING_CLASSES
        birds, searched = [str(label) for label in labels.tolist()], np.flatnonzero(~training)
        train = files.keep(np.flatnonzero(training))
        return Contents.searched(train, files, birds, searched, searched)
