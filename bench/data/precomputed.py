"""Fixed vectors of a dataset's images, made elsewhere, in place of pixels and backbone.

The recipe's `embeddings` names a file of them (`bench.data.embedding_files` says how it may look):
one row for every image, named as the dataset names it. Methods then train a projection alone, and
no image is decoded. They are never augmented: the old embedding of an image is always the stored
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.embedding_files import EmbeddingTable, read_embeddings
from bench.data.images import FileImages
from bench.errors import BenchError
from bench.protocol import ImageSet, RetrievalData
from bench.storage.files import temporary


class PrecomputedRows:
    """Precomputed embeddings, to be read where images are."""

    def __init__(self, vectors: EmbeddingTable, rows: NDArray[np.int64]) -> None:
        self.vectors, self.rows = vectors, rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the vectors of `rows` as float32 [B, F]."""
        chosen = self.vectors.rows[self.rows[np.asarray(rows, np.int64)]]
        return torch.from_numpy(np.array(chosen, np.float32))


def read_precomputed(path: Path) -> EmbeddingTable:
    """Read a file of vectors with an id each, once while it stays as it is.

    Raises BenchError for what `read_embeddings` refuses, and for vectors without ids.
    """
    path = path.expanduser()
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _read_precomputed(path, changed)


@cache
def _read_precomputed(path: Path, changed: int) -> EmbeddingTable:
    vectors = read_embeddings(path)
    if vectors.ids is None:
        raise BenchError(
            f"{path} does not say which image a row belongs to; expected ids: "
            f"{path.with_suffix('.ids.txt').name} beside a .npy, an array `ids` in a .npz, a "
            "column `id` in a .parquet, `ids` in the metadata of a .safetensors"
        )
    return vectors


def write_listing(data: RetrievalData, path: Path) -> None:
    """Write a table of all images, whose vectors a file has to hold: split, id, label.

    Where images lie in files it tells the path below the root, and the box to cut out, if any.
    """
    splits = {"train": data.train, "query": data.query, "gallery": data.gallery}
    if data.query is data.gallery:
        del splits["query"]
    tables = []
    for split, images in splits.items():
        table = pd.DataFrame({"split": split, "id": images.ids, "label": images.labels})
        if isinstance(images.images, FileImages):
            table["path"] = images.images.paths
            if images.images.boxes is not None:
                table[["left", "top", "right", "bottom"]] = images.images.boxes
        tables.append(table)
    with temporary(path) as file:
        pd.concat(tables, ignore_index=True).to_csv(file, index=False)


def with_precomputed(data: RetrievalData, path: Path) -> RetrievalData:
    """Put the vectors of a file in the place of images.

    Raises BenchError naming the file and the first image that has no vector in it.
    """
    vectors = read_precomputed(path)
    numbers = vectors.numbers()

    def rows_of(images: ImageSet, split: str) -> ImageSet:
        missing = [name for name in images.ids if name not in numbers]
        if missing:
            raise BenchError(
                f"{path} has no vector of '{missing[0]}' ({len(missing):,} such of the "
                f"{len(images):,} {split} images); expected a row for every image, with the id "
                f"that the data set gives it, yet the file's first id is '{vectors.name(0)}'"
            )
        rows = np.array([numbers[name] for name in images.ids], np.int64)
        return replace(images, images=PrecomputedRows(vectors, rows))

    gallery = rows_of(data.gallery, "gallery")
    query = gallery if data.query is data.gallery else rows_of(data.query, "query")
    return replace(data, train=rows_of(data.train, "training"), query=query, gallery=gallery)
