"""Base of the adapters that a table lists: NAME,label[,split][,camera]; `NAME` names an item.

`split` is train, query or gallery, or test for items that are both; without it half of the classes
train, and of the others a third of each class's items ask for the rest. With `camera`, the right
answers show the class in another camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from bench.data.file_dataset import Contents, FileDataset, Files, existing_folder
from bench.data.queries import QuerySettings, split_queries
from bench.data.splits import Labels, numbered, training_classes
from bench.data.tables import read_csv
from bench.errors import BenchError

SPLITS = ("train", "query", "gallery", "test")


class LabelledTable(FileDataset):
    """Relevant is what shares the label; the query itself and its own camera's images are junk."""

    unkeyed = FileDataset.unkeyed | {"source"}
    column: ClassVar[str]

    class Config(QuerySettings, FileDataset.Config):
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
        table = read_csv(self.table, [self.column, "label"], ["split", "camera"])
        names = table[self.column]
        for line in table.index[names.duplicated()][:1]:
            raise BenchError(f"{self.table} line {line} repeats the {self.column} {names[line]}")
        labels = numbered(table["label"])
        cameras = numbered(table["camera"]) if "camera" in table else None
        if "split" not in table:
            table["split"] = self._split(table, labels, cameras)
        for line in table.index[~table["split"].isin(SPLITS)][:1]:
            raise BenchError(
                f"{self.table} line {line}: split is '{table['split'][line]}'; "
                f"expected {', '.join(SPLITS)}"
            )
        lines = table.index.to_numpy(np.int64)
        whole = Files(names.tolist(), labels, source=self.table, lines=lines)
        splits = table["split"].to_numpy()
        train, query, gallery = (
            self._rows(splits, *names)
            for names in (("train",), ("query", "test"), ("gallery", "test"))
        )
        groups = table["label"].tolist()
        return Contents.searched(whole.keep(train), whole, groups, query, gallery, cameras)

    def _split(self, table: pd.DataFrame, labels: Labels, cameras: Labels | None) -> np.ndarray:
        """Let half of the classes train, and some images of the others ask [N]."""
        training = training_classes(table["label"], self.config.split_seed)
        others = np.flatnonzero(~training)
        query, gallery = split_queries(
            labels[others],
            table[self.column].to_numpy()[others].tolist(),
            self.config.queries,
            None if cameras is None else cameras[others],
        )
        splits = np.full(len(table), "train", dtype=object)
        splits[others[gallery]] = "gallery"
        splits[others[query]] = "test" if np.array_equal(query, gallery) else "query"
        return splits

    def _rows(self, splits: np.ndarray, *names: str) -> np.ndarray:
        """Rows of the table that belong to a split; raises BenchError when there are none."""
        rows = np.flatnonzero(np.isin(splits, names))
        if not len(rows):
            raise BenchError(f"{self.table} has no row whose split is {' or '.join(names)}")
        return rows
