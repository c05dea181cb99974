"""Your own images in class folders: what the adapters of one and of several splits share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from bench.data.file_dataset import (
    Contents,
    FileDataset,
    Files,
    class_folders,
    existing_folder,
    passed_over,
)
from bench.data.queries import QuerySettings, split_queries
from bench.data.splits import numbered


class ClassFolders(FileDataset):
    """Images `<split>/<class>/*` below a folder that the dataset's name gives."""

    unkeyed = FileDataset.unkeyed | {"source"}

    class Config(QuerySettings, FileDataset.Config):
        source: str = Field(description="the folder of the images")

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Folders below the root that hold class folders."""

    @property
    def root(self) -> Path:
        return existing_folder(Path(self.config.source))

    def listed(self) -> Iterable[os.DirEntry[str]]:
        folders = (class_folders(self.root / split) for split in self.splits())
        return (entry for classes in folders for files in classes.values() for entry in files)

    def passed_over(self) -> dict[str, int]:
        found = Counter[str]()
        for split in self.splits():
            found.update(passed_over(self.root / split))
        return dict(found)

    def files(self, split: str) -> Files:
        """List the images of a split with their classes."""
        classes = class_folders(self.root / split)
        names = [name for name, files in classes.items() for _ in files]
        below = [f"{name}/{file.name}" for name, files in classes.items() for file in files]
        return Files([str(Path(split, path)) for path in below], numbered(names))

    def searched(self, train: Files, others: Files) -> Contents:
        """Train on some files; of the others, some ask and the rest is searched."""
        query, gallery = split_queries(others.labels, others.paths, self.config.queries)
        classes = [path.split("/")[-2] for path in others.paths]
        return Contents.searched(train, others, classes, query, gallery)
