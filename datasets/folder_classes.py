"""Class folders in split folders, `<split>/<class>/*`, as CIFAR-100 and ImageNet are unpacked.

Write `folder_classes:PATH`. The training split trains on all its classes; every image of the test
split is a query against all the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from bench.errors import BenchError
from bench.file_dataset import (
    Contents,
    FileDataset,
    Files,
    class_folders,
    existing_folder,
    listing_digest,
    numbered,
)
from bench.relevance import Relevance

TEST_FOLDERS = ("test", "val", "validation")


class FolderClasses(FileDataset):
    """Relevant is what shares the class; the query itself is junk."""

    unkeyed = FileDataset.unkeyed | {"source"}

    class Config(FileDataset.Config):
        source: str = Field(description="the folder of the split folders")
        train: str = Field("train", description="folder of the training split")
        test: str = Field("", description="folder of the test split; found when empty")

    @property
    def root(self) -> Path:
        return existing_folder(Path(self.config.source))

    @property
    def splits(self) -> tuple[str, str]:
        """Folders of the training and of the test split."""
        present = [name for name in TEST_FOLDERS if (self.root / name).is_dir()]
        if not (self.config.test or present):
            raise BenchError(f"{self.root} has no folder {' or '.join(TEST_FOLDERS)}")
        return self.config.train, self.config.test or present[0]

    def index_files(self) -> Sequence[Path]:
        return []

    def fingerprint(self) -> str:
        classes = (class_folders(self.root / split).values() for split in self.splits)
        entries = (entry for split in classes for files in split for entry in files)
        return listing_digest(self.root, entries)

    def contents(self) -> Contents:
        train, gallery = map(self._list, self.splits)
        return Contents(train, gallery, gallery, Relevance.among_themselves(gallery.labels))

    def _list(self, split: str) -> Files:
        classes = class_folders(self.root / split)
        names = [name for name, files in classes.items() for _ in files]
        paths = [f"{split}/{name}/{file.name}" for name, files in classes.items() for file in files]
        return Files(paths, numbered(names))
