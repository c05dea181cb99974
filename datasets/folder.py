"""Your own images in class folders, `<class>/*`: half of the classes train, half are searched.

Write `folder:PATH`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
    training_classes,
)
from bench.relevance import Relevance


class Folder(FileDataset):
    """Every image of the classes that do not train is a query against all the others."""

    unkeyed = FileDataset.unkeyed | {"source"}

    class Config(FileDataset.Config):
        source: str = Field(description="the folder of the class folders")
        split_seed: int = Field(0, description="chooses the classes that train")

    @property
    def root(self) -> Path:
        return existing_folder(Path(self.config.source))

    def index_files(self) -> Sequence[Path]:
        return []

    def fingerprint(self) -> str:
        classes = class_folders(self.root).values()
        return listing_digest(self.root, (entry for files in classes for entry in files))

    def contents(self) -> Contents:
        classes = class_folders(self.root)
        if len(classes) < 4:
            raise BenchError(
                f"{self.root} has {len(classes)} class folders with images; expected at least 4, "
                "half of which train"
            )
        names = [name for name, files in classes.items() for _ in files]
        paths = [f"{name}/{file.name}" for name, files in classes.items() for file in files]
        training = training_classes(names, self.config.split_seed)
        whole = Files(paths, numbered(names))
        train, gallery = (whole.keep(np.flatnonzero(part)) for part in (training, ~training))
        return Contents(train, gallery, gallery, Relevance.among_themselves(gallery.labels))
