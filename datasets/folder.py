"""Your own images in class folders, `<class>/*`: half of the classes train, half are searched.

Write `folder:PATH`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bench.data.file_dataset import Contents, class_folders
from bench.data.splits import training_classes
from bench.errors import BenchError
from datasets._class_folders import ClassFolders


class Folder(ClassFolders):
    """A third of the images of each class that does not train ask; the others are searched."""

    class Config(ClassFolders.Config):
        split_seed: int = Field(0, description="chooses the classes that train")

    def splits(self) -> Sequence[str]:
        return [""]

    def contents(self) -> Contents:
        classes = class_folders(self.root)
        if len(classes) < 4:
            raise BenchError(
                f"{self.root} has {len(classes)} class folders with images; expected at least 4, "
                "half of which train"
            )
        whole = self.files("")
        names = np.array(list(classes))[whole.labels]
        training = training_classes(names, self.config.split_seed)
        train, others = (whole.keep(np.flatnonzero(part)) for part in (training, ~training))
        return self.searched(train, others)
