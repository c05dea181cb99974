"""Your own images in class folders: what the adapters of one and of several splits share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from bench.file_dataset import FileDataset, Files, class_folders, existing_folder, numbered


class ClassFolders(FileDataset):
    """Images `<split>/<class>/*` below a folder that the dataset's name gives."""

    unkeyed = FileDataset.unkeyed | {"source"}

    class Config(FileDataset.Config):
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

    def files(self, split: str) -> Files:
        """List the images of a split with their classes."""
        classes = class_folders(self.root / split)
        names = [name for name, files in classes.items() for _ in files]
        below = [f"{name}/{file.name}" for name, files in classes.items() for file in files]
        return Files([str(Path(split, path)) for path in below], numbered(names))
