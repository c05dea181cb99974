"""Images read ahead of the model that takes them, by processes of their own where that pays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.errors import BenchError
from bench.execution.resources import reading_ahead
from bench.protocol import Images

Rows = NDArray[np.int64]
READ_AHEAD = 4  # batches that each process may have ready


class _Reads(Dataset[tuple[Tensor | BenchError, float]]):
    """Batches of images by their rows, or why not, each with the seconds that reading it took."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, rows: Rows) -> tuple[Tensor | BenchError, float]:
        started = time.perf_counter()
        try:
            read: Tensor | BenchError = self.images.read(rows)
        except BenchError as error:  # raised in a reader, its sentence would drown in a traceback
            read = error
        return read, time.perf_counter() - started


def read_ahead(
    images: Images, batches: Sequence[Rows], readers: int, pinned: bool = False
) -> Iterator[tuple[Tensor, float]]:
    """Yield uint8 [B, 3, H, W] for each of `batches`, in order, and the seconds it took to read.

    Where images are decoded from files (they say `decodes`), `readers` processes do it ahead;
    with none, and for images in memory, a batch is read when it is asked for. `pinned` memory is
    what a GPU copies from without waiting. There are fewer readers where shared memory does not
    hold their batches. An error of a reader is raised here.
    """
    readers, ahead = readers if getattr(images, "decodes", False) else 0, READ_AHEAD
    if readers and len(batches):
        one = images.read(batches[0][:1]).nbytes
        readers, ahead = reading_ahead(readers, ahead, one * max(map(len, batches)))
    loader = DataLoader(
        _Reads(images),
        batch_size=None,
        sampler=batches,
        num_workers=readers,
        prefetch_factor=ahead if readers else None,
        pin_memory=pinned,
        generator=torch.Generator(),  # the model's own stream of random numbers is not touched
    )
    for read, seconds in loader:
        if isinstance(read, BenchError):
            raise read
        yield read, seconds
