"""Your own texts, products or other items in a table: id,label[,split][,camera], without pictures.

Write `items:PATH` and give the vectors of the items with `--embeddings FILE`, or one file to each
side with `--set old.embeddings=FILE --set new.embeddings=FILE`; `_labelled_table` says what the
other columns mean.
"""

from __future__ import annotations

from pathlib import Path

from bench.data.file_dataset import Files
from bench.data.images import NoImages
from bench.data.splits import numbered
from bench.protocol import ImageSet
from datasets._labelled_table import LabelledTable


class Items(LabelledTable):
    """Relevant is what shares the label; the query itself and its own camera's items are junk."""

    column = "id"
    has_images = False

    def image_set(self, files: Files, size: int, folder: Path) -> ImageSet:
        """Name a split's items, for vectors to take the place of images."""
        nothing = NoImages(len(files), f"the items of {self.table}")
        return ImageSet(nothing, numbered(files.labels), tuple(files.paths))
