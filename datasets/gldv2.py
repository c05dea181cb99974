"""Google Landmarks v2: train on the clean set, search 761,757 index images, AP@100.

Weyand et al., CVPR 2020. In the root lie `train_clean.csv`, `index.csv`,
`retrieval_solution_v2.1.csv` and the images, `{train,index,test}/a/b/c/<id>.jpg`, in folders named
after the first three characters of the id.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from bench.data.file_dataset import Contents, FileDataset, Files
from bench.data.groups import sharing_answers
from bench.data.splits import numbered
from bench.data.tables import read_csv
from bench.errors import BenchError
from bench.relevance import Relevance

TRAIN, INDEX = "train_clean.csv", "index.csv"
SOLUTION = "retrieval_solution_v2.1.csv"
QUERIES = {"Private": 750, "Public": 379}  # of 117,577 test images; the others are Ignored


class GoogleLandmarks(FileDataset):
    """Queries are the Private part of the test images, or the Public part for validation.

    The landmark of a test image is told by its answers alone: queries that share some are a group.
    """

    class Config(FileDataset.Config):
        queries: Literal["Private", "Public"] = Field("Private", description="Usage of queries")
        allow_unanswered: bool = True

    metric: ClassVar[str] = "AP@100"
    published: ClassVar[dict[str, int]] = {
        "train_images": 1_580_470,
        "train_classes": 81_313,
        "gallery": 761_757,
    }

    def expected(self) -> dict[str, int]:
        return {**self.published, "queries": QUERIES[self.config.queries]}

    def index_files(self) -> Sequence[Path]:
        return [self.root / name for name in (TRAIN, INDEX, SOLUTION)]

    def contents(self) -> Contents:
        train, index, solution = self.index_files()
        gallery = self._index(index)
        table = read_csv(solution, ["id", "images", "Usage"])
        usages = table["Usage"].value_counts().to_dict()
        table = table[table["Usage"] == self.config.queries]
        if not len(table):
            raise BenchError(f"{solution} has no row with Usage {self.config.queries}")
        relevant = _rows_of(table["images"], gallery, solution)
        query = _files("test", table["id"], np.zeros(len(table), np.int64), solution)
        relevance = Relevance.from_lists(relevant, [[]] * len(relevant), len(gallery))
        counts = {f"test_{usage.lower()}": int(count) for usage, count in usages.items()}
        groups = sharing_answers(relevance.relevant, table["id"].tolist())
        return Contents(self._train(train), query, gallery, relevance, counts, groups)

    def _train(self, path: Path) -> Files:
        table = read_csv(path, ["landmark_id", "images"])
        ids = table["images"].str.split()
        landmarks = np.repeat(numbered(table["landmark_id"]), ids.str.len().astype(int))
        return _files("train", ids.explode(), landmarks, path)

    def _index(self, path: Path) -> Files:
        ids = read_csv(path, ["id"])["id"]
        if ids.duplicated().any():
            line = ids.index[ids.duplicated()][0]
            raise BenchError(f"{path} line {line} repeats the id {ids[line]}")
        return _files("index", ids, np.zeros(len(ids), np.int64), path)


def _files(split: str, ids: pd.Series, labels: np.ndarray, source: Path) -> Files:
    """Files of the ids in a split; the series' index holds the lines of `source`."""
    short = ids.str.len() < 3
    if short.any():
        line = ids.index[short][0]
        raise BenchError(f"{source} line {line}: id '{ids[line]}' has fewer than 3 characters")
    names = ids.tolist()
    paths = [f"{split}/{name[0]}/{name[1]}/{name[2]}/{name}.jpg" for name in names]
    return Files(paths, labels, names, source=source, lines=ids.index.to_numpy(np.int64))


def _rows_of(answers: pd.Series, gallery: Files, source: Path) -> list[list[int]]:
    """Rows in the gallery of the ids that each query lists; `None` lists none."""
    place = {name: row for row, name in enumerate(gallery.ids or ())}
    found = []
    for line, text in answers.items():
        names = [] if text == "None" else str(text).split()
        unknown = [name for name in names if name not in place]
        if unknown:
            raise BenchError(f"{source} line {line}: '{unknown[0]}' is no id of {gallery.source}")
        found.append([place[name] for name in names])
    return found
