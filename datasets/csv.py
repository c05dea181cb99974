"""Your own images in a table: path,label[,split][,camera], paths relative to the table's folder.

Write `csv:PATH`. `split` is train, query or gallery, or test for images that are both; without it
half of the classes train. With `camera`, the right answers show the class in another camera.
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
    existing_folder,
    numbered,
    same_class_and_camera,
    training_classes,
)
from bench.index_files import read_csv
from bench.relevance import Relevance

SPLITS = ("train", "query", "gallery", "test")


class Table(FileDataset):
    """Relevant is what shares the label; the query itself and its own camera's images are junk."""

    unkeyed = FileDataset.unkeyed | {"source"}

    class Config(FileDataset.Config):
        source: str = Field(description="the path of the table")
        split_seed: int = Field(0, description="chooses the classes that train")

    @property
    def table(self) -> Path:
        return Path(self.config.source).expanduser()

    @property
    def root(self) -> Path:
        return existing_folder(self.config.root or self.table.parent)

    def index_files(self) -> Sequence[Path]:
        return [self.table]

    def contents(self) -> Contents:
        table = read_csv(self.table, ["path", "label"], ["split", "camera"])
        for line in table.index[table["path"].duplicated()][:1]:
            raise BenchError(f"{self.table} line {line} repeats the path {table['path'][line]}")
        labels = numbered(table["label"])
        if "split" not in table:
            training = training_classes(table["label"], self.config.split_seed)
            table["split"] = np.where(training, "train", "test")
        for line in table.index[~table["split"].isin(SPLITS)][:1]:
            raise BenchError(
                f"{self.table} line {line}: split is '{table['split'][line]}'; "
                f"expected {', '.join(SPLITS)}"
            )
        lines = table.index.to_numpy(np.int64)
        whole = Files(table["path"].tolist(), labels, source=self.table, lines=lines)
        splits = table["split"].to_numpy()
        train, query, gallery = (
            self._rows(splits, *names)
            for names in (("train",), ("query", "test"), ("gallery", "test"))
        )
        searched = whole.keep(gallery)
        same = np.array_equal(query, gallery)
        asking = searched if same else whole.keep(query)
        place = {row: position for position, row in enumerate(gallery.tolist())}
        junk = [[place[row]] if row in place else [] for row in query.tolist()]
        if "camera" in table:
            cameras = numbered(table["camera"])
            seen = same_class_and_camera(
                labels[query], cameras[query], labels[gallery], cameras[gallery]
            )
            junk = [[*own, *rows] for own, rows in zip(junk, seen, strict=True)]
        relevance = Relevance.from_labels(asking.labels, searched.labels, junk)
        return Contents(whole.keep(train), asking, searched, relevance)

    def _rows(self, splits: np.ndarray, *names: str) -> np.ndarray:
        """Rows of the table that belong to a split; raises BenchError when there are none."""
        rows = np.flatnonzero(np.isin(splits, names))
        if not len(rows):
            raise BenchError(f"{self.table} has no row whose split is {' or '.join(names)}")
        return rows
