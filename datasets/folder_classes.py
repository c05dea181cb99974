"""Class folders in split folders, `<split>/<class>/*`, as CIFAR-100 and ImageNet are unpacked.

Write `folder_classes:PATH`. The training split trains on all its classes; a third of the images of
each class of the test split ask, and the others are searched.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bench.data.file_dataset import Contents
from bench.errors import BenchError
from datasets._class_folders import ClassFolders

TEST_FOLDERS = ("test", "val", "validation")


class FolderClasses(ClassFolders):
    """Relevant is what shares the class."""

    class Config(ClassFolders.Config):
        train: str = Field("train", description="folder of the training split")
        test: str = Field("", description="folder of the test split; found when empty")

    def splits(self) -> Sequence[str]:
        present = [name for name in TEST_FOLDERS if (self.root / name).is_dir()]
        if not (self.config.test or present):
            raise BenchError(f"{self.root} has no folder {' or '.join(TEST_FOLDERS)}")
        return [self.config.train, self.config.test or present[0]]

    def contents(self) -> Contents:
        train, others = map(self.files, self.splits())
        return self.searched(train, others)
