"""DeepFashion In-Shop (Liu et al., CVPR 2016): other photographs of the same piece of clothing.

In the root lie `Eval/list_eval_partition.txt` (or that file itself) and the images that it lists,
in the root or in `Img/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from bench.data.file_dataset import Contents, FileDataset, Files
from bench.data.splits import numbered
from bench.data.tables import read_words
from bench.errors import BenchError
from bench.relevance import Relevance

COLUMNS = ("image_name", "item_id", "evaluation_status")
SPLITS = ("train", "query", "gallery")


class InShop(FileDataset):
    """Train, query and gallery as the partition file says."""

    published: ClassVar[dict[str, int]] = {
        "train_images": 25_882,
        "train_classes": 3_997,
        "queries": 14_218,
        "gallery": 12_612,
    }

    def index_files(self) -> Sequence[Path]:
        name = "list_eval_partition.txt"
        folder = "Eval" if (self.root / "Eval").is_dir() else "."
        return [self.root / folder / name]

    def contents(self) -> Contents:
        (path,) = self.index_files()
        table = read_words(path, COLUMNS, skip=2)
        status = table["evaluation_status"]
        for line in table.index[~status.isin(SPLITS)][:1]:
            raise BenchError(
                f"{path} line {line}: evaluation_status is '{status[line]}'; "
                f"expected {', '.join(SPLITS)}"
            )
        table["label"] = numbered(table["item_id"])
        train, query, gallery = (self._files(table[status == split], path) for split in SPLITS)
        items = table["item_id"][status == "query"].tolist()
        relevance = Relevance.from_labels(query.labels, gallery.labels)
        return Contents(train, query, gallery, relevance, groups=items)

    def _files(self, table: pd.DataFrame, path: Path) -> Files:
        if not len(table):
            raise BenchError(f"{path} lists no image for one of {', '.join(SPLITS)}")
        names = table["image_name"].tolist()
        folder = "Img/" if (self.root / "Img").is_dir() else ""
        lines = table.index.to_numpy(np.int64)
        paths = [f"{folder}{name}" for name in names]
        return Files(paths, table["label"].to_numpy(np.int64), names, source=path, lines=lines)
