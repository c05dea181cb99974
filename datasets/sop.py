"""Stanford Online Products (Oh Song et al., CVPR 2016): photographs of the same article.

In the root lie `Ebay_train.txt`, `Ebay_test.txt` and the images that they list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.data.file_dataset import Contents, FileDataset, Files
from bench.data.tables import read_words, whole_numbers

COLUMNS = ("image_id", "class_id", "super_class_id", "path")


class StanfordOnlineProducts(FileDataset):
    """Every test image is a query against all the others."""

    published: ClassVar[dict[str, int]] = {
        "train_images": 59_551,
        "train_classes": 11_318,
        "queries": 60_502,
        "gallery": 60_502,
    }

    def index_files(self) -> Sequence[Path]:
        return [self.root / "Ebay_train.txt", self.root / "Ebay_test.txt"]

    def contents(self) -> Contents:
        train, gallery = map(_list, self.index_files())
        articles = [str(article) for article in gallery.labels.tolist()]
        every = np.arange(len(gallery))
        return Contents.searched(train, gallery, articles, every, every)


def _list(path: Path) -> Files:
    table = read_words(path, COLUMNS, skip=1)
    articles = whole_numbers(table, "class_id", path)
    lines = table.index.to_numpy(np.int64)
    return Files(table["path"].tolist(), articles, source=path, lines=lines)
