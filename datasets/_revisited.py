"""Revisited Oxford and Paris (Radenović et al., CVPR 2018): what the two have in common.

In the root lie `gnd_<name>.pkl` and `jpg/<image>.jpg`, or else a folder `<name>` that holds them;
the distractors, where they are asked for, lie beside in `revisitop1m.txt` and `jpg/`, in a folder
`revisitop1m` of the root. Both test only: the training images are those of another dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.errors import BenchError
from bench.file_dataset import Contents, FileDataset, Files
from bench.protocol import DatasetAdapter, RetrievalData
from bench.registry import make_dataset
from bench.relevance import Relevance
from bench.restricted_pickle import load_plain
from bench.store import digest

RIGHT = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
IGNORED = {"easy": ("junk", "hard"), "medium": ("junk",), "hard": ("junk", "easy")}
DISTRACTORS = "revisitop1m"
DISTRACTOR_COUNT = 1_001_001


class Revisited(FileDataset):
    """Queries are cropped by their boxes; what the difficulty ignores is junk."""

    class Config(FileDataset.Config):
        difficulty: Literal["easy", "medium", "hard"] = "medium"
        distractors: bool = Field(False, description="add the million images of R1M")
        train: str = Field("gldv2", description="dataset whose training images are used")
        train_options: dict[str, Any] = Field({}, description="options of that dataset")
        allow_unanswered: bool = True

    @cached_property
    def trainer(self) -> DatasetAdapter:
        """The dataset that gives the training images."""
        return make_dataset(self.config.train, self.config.train_options)

    @property
    def _folder(self) -> str:
        """Folder of this dataset below the root, with a slash, or nothing for the root itself."""
        return f"{self.name}/" if (self.root / self.name).is_dir() else ""

    def index_files(self) -> Sequence[Path]:
        truth = self.root / f"{self._folder}gnd_{self.name}.pkl"
        names = self.root / DISTRACTORS / f"{DISTRACTORS}.txt"
        return [truth, names] if self.config.distractors else [truth]

    def expected(self) -> dict[str, int]:
        added = DISTRACTOR_COUNT if self.config.distractors else 0
        return {**self.published, "gallery": self.published["gallery"] + added}

    def planned(self) -> dict[str, int]:
        trained = self.trainer.planned() if isinstance(self.trainer, FileDataset) else {}
        training = {key: count for key, count in trained.items() if key.startswith("train_")}
        return {**self.expected(), **training}

    def fingerprint(self) -> str:
        return digest([super().fingerprint(), self.trainer.revision()])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        data = super().load(image_size, cache)
        other = self.trainer.load(image_size, cache.parent / self.config.train.partition(":")[0])
        counts = {key: n for key, n in other.counts.items() if key.startswith("train_")}
        return replace(data, train=other.train, counts={**data.counts, **counts})

    def contents(self) -> Contents:
        path = self.index_files()[0]
        truth = load_plain(path)
        names, queries, items = (_entry(truth, key, path) for key in ("imlist", "qimlist", "gnd"))
        if len(queries) != len(items):
            raise BenchError(f"{path}: qimlist has {len(queries)} entries but gnd {len(items)}")
        images = f"{self._folder}jpg"
        paths = [f"{images}/{name}.jpg" for name in names]
        if self.config.distractors:
            paths += [f"{DISTRACTORS}/jpg/{name}" for name in self._distractor_names()]
        right, ignored = (
            [
                _rows(items, query, kinds[self.config.difficulty], len(names), path)
                for query in range(len(items))
            ]
            for kinds in (RIGHT, IGNORED)
        )
        try:
            relevance = Relevance.from_lists(right, ignored, len(paths))
        except ValueError as error:
            raise BenchError(f"{path}: {error}") from error
        boxes = np.array([_box(items, query, path) for query in range(len(items))])
        query_paths = [f"{images}/{name}.jpg" for name in queries]
        query = Files(query_paths, np.arange(len(items)), queries, boxes=boxes, source=path)
        gallery = Files(paths, np.zeros(len(paths), np.int64), source=path)
        nothing = Files([], np.empty(0, np.int64))
        return Contents(nothing, query, gallery, relevance, "AP-trapezoidal")

    def _distractor_names(self) -> list[str]:
        try:
            return self.index_files()[1].read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise BenchError(f"{self.index_files()[1]} cannot be read: {error}") from error


def _entry(truth: Any, key: str, path: Path) -> list[Any]:
    """One of the three lists of a ground truth: names of images, or a dictionary per query."""
    kind = dict if key == "gnd" else str
    found = truth.get(key) if isinstance(truth, dict) else None
    if not (isinstance(found, list | tuple) and all(isinstance(item, kind) for item in found)):
        raise BenchError(f"{path} has no list '{key}' of {kind.__name__}; expected gnd_<name>.pkl")
    return list(found)


def _rows(
    items: list[Any], query: int, kinds: Sequence[str], size: int, path: Path
) -> NDArray[np.int64]:
    """Gallery rows that a query lists under `kinds`."""
    try:
        parts = [np.asarray(items[query][kind], np.float64).ravel() for kind in kinds]
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path}: gnd[{query}] has no lists of rows {', '.join(kinds)}") from error
    rows = np.concatenate(parts)
    if not ((rows >= 0) & (rows < size) & (rows == np.floor(rows))).all():
        raise BenchError(f"{path}: gnd[{query}] names rows outside imlist, which has {size}")
    return rows.astype(np.int64)


def _box(items: list[Any], query: int, path: Path) -> NDArray[np.float64]:
    try:
        box = np.asarray(items[query]["bbx"], np.float64).reshape(4)
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path}: gnd[{query}] has no 'bbx' of four numbers") from error
    return box
