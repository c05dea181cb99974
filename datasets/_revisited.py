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
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.data.file_dataset import Contents, FileDataset, Files
from bench.data.groups import sharing_answers
from bench.data.tables import read_lines
from bench.errors import BenchError
from bench.plugins.registry import make_dataset
from bench.protocol import DatasetAdapter, RetrievalData
from bench.relevance import Ragged, Relevance
from bench.storage.digest import digest
from datasets._revisited_truth import read_truth

RIGHT = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
IGNORED = {"easy": ("junk", "hard"), "medium": ("junk",), "hard": ("junk", "easy")}
DISTRACTORS = "revisitop1m"
DISTRACTOR_COUNT = 1_001_001


class Revisited(FileDataset):
    """Queries are cropped by their boxes; what the difficulty ignores is junk.

    Queries that show the same landmark, and so share answers, are a group. Names do not tell the
    landmark: some queries of Oxford are called after nothing but the town.
    """

    metric: ClassVar[str] = "AP-trapezoidal"

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
        return {**self.expected(), **_of_training(trained)}

    def fingerprint(self) -> str:
        return digest([super().fingerprint(), self.trainer.revision()])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        data = super().load(image_size, cache)
        other = self.trainer.load(image_size, cache.parent / self.config.train.partition(":")[0])
        counts = {**data.counts, **_of_training(other.counts)}
        return replace(data, train=other.train, counts=counts)

    def contents(self) -> Contents:
        path, *distractors = self.index_files()
        truth = read_truth(path)
        paths = [f"{self._folder}jpg/{name}.jpg" for name in truth.imlist]
        for names in distractors:
            paths += [f"{DISTRACTORS}/jpg/{name}" for name in read_lines(names)]
        right, ignored = (
            [[row for kind in kinds for row in getattr(query, kind)] for query in truth.gnd]
            for kinds in (RIGHT[self.config.difficulty], IGNORED[self.config.difficulty])
        )
        try:
            relevance = Relevance.from_lists(right, ignored, len(paths))
        except ValueError as error:
            raise BenchError(f"{path}: {error}") from error
        boxes = np.array([query.bbx for query in truth.gnd]).reshape(-1, 4)
        asking = [f"{self._folder}jpg/{name}.jpg" for name in truth.qimlist]
        query = Files(asking, np.arange(len(asking)), truth.qimlist, boxes=boxes, source=path)
        gallery = Files(paths, np.zeros(len(paths), np.int64), source=path)
        nothing = Files([], np.empty(0, np.int64))
        # Every answer, whatever its difficulty, so that easy, medium and hard have the same groups.
        shown = Ragged.from_lists([*answers.easy, *answers.hard] for answers in truth.gnd)
        groups = sharing_answers(shown, truth.qimlist)
        return Contents(nothing, query, gallery, relevance, groups=groups)


def _of_training(counts: dict[str, int]) -> dict[str, int]:
    return {key: count for key, count in counts.items() if key.startswith("train_")}
