"""Sources of images: anything with a length and `read(rows) → uint8 [B, 3, H, W]`."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from bench.decode import Fit, decode, inside
from bench.errors import BenchError
from bench.protocol import Images

PIXELS, CHECKSUMS = "pixels.npy", "checksums.npy"
PACKED_AT_A_TIME = 256


class ArrayImages:
    """Images packed in one array, in memory or memory-mapped: grey [N, H, W] or [N, 3, H, W].

    Raises ValueError for any other shape or type.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        colour = pixels.ndim == 4 and pixels.shape[1] == 3
        if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 3):
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}; "
                "expected uint8 [N, H, W] or [N, 3, H, W]"
            )
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, H, W]; grey becomes three equal channels."""
        pixels = torch.from_numpy(self.pixels[np.asarray(rows, dtype=np.int64)])
        if pixels.ndim == 3:
            pixels = pixels.unsqueeze(1).expand(-1, 3, -1, -1)
        return pixels.contiguous()


class FileImages:
    """Image files below `root`, decoded whenever they are read, on all of torch's threads.

    `boxes` [N, 4] are cut out before resizing (left, top, right, bottom). `origin(row)` says in an
    error where the row was listed.
    """

    decodes = True

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        size: int,
        fit: Fit = "stretch",
        boxes: NDArray[np.float64] | None = None,
        origin: Callable[[int], str] = lambda row: "",
    ) -> None:
        self.root, self.paths, self.boxes = root, paths, boxes
        self.size, self.fit, self.origin = size, fit, origin

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, S, S].

        Raises BenchError naming the file and the line that lists it.
        """
        pixels = np.empty((len(rows), 3, self.size, self.size), np.uint8)

        def read_one(place: int) -> None:
            pixels[place] = self.decode(int(rows[place]))

        threads = torch.get_num_threads()
        if threads == 1 or len(rows) < 2:
            for place in range(len(rows)):
                read_one(place)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read_one, range(len(rows))))
        return torch.from_numpy(pixels)

    def decode(self, row: int) -> NDArray[np.uint8]:
        """Return one image [3, S, S]."""
        box = None if self.boxes is None else tuple(self.boxes[row].tolist())
        try:
            return decode(inside(self.root, self.paths[row]), self.size, self.fit, box)
        except BenchError as error:
            raise type(error)(f"{error}{self.origin(row)}") from error


class PackedImages(ArrayImages):
    """Images decoded once into a memory-mapped file; every image is checked whenever it is read."""

    def __init__(self, folder: Path) -> None:
        try:
            pixels = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False)
            self.checksums = np.load(folder / CHECKSUMS, allow_pickle=False)
            super().__init__(pixels)
        except (OSError, ValueError) as error:
            raise BenchError(
                f"the packed images in {folder} cannot be used ({error}); delete the folder, "
                "they are packed anew"
            ) from error
        self.folder = folder

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows`; raises BenchError for one that changed on disk."""
        images = super().read(rows)
        for image, row in zip(images.numpy(), np.asarray(rows, dtype=np.int64), strict=True):
            if zlib.crc32(image) != self.checksums[row]:
                raise BenchError(
                    f"image {row} of {self.folder / PIXELS} is damaged; delete the folder, "
                    "the images are packed anew"
                )
        return images


class PackedWhenRead:
    """Images that are decoded into `folder`, all of them, when the first one is read.

    A split that nobody reads at this size is never packed.
    """

    def __init__(self, images: Images, size: int, folder: Path) -> None:
        self.images, self.size, self.folder = images, size, folder

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def packed(self) -> PackedImages:
        """The packed images; packs them unless that was done before."""
        return pack(self.images, self.size, self.folder)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows`; raises BenchError for one that changed on disk."""
        return self.packed.read(rows)


def pack(images: Images, size: int, folder: Path) -> PackedImages:
    """Decode every image once into `folder`, unless that was done before.

    One process packs, others wait for it; a failure leaves nothing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
            try:
                _write_packed(images, size, work)
                os.replace(work, folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return PackedImages(folder)


def _write_packed(images: Images, size: int, folder: Path) -> None:
    pixels = np.lib.format.open_memmap(
        folder / PIXELS, mode="w+", dtype=np.uint8, shape=(len(images), 3, size, size)
    )
    checksums = np.empty(len(images), np.uint32)
    for rows in blocks(len(images), PACKED_AT_A_TIME):
        pixels[rows] = images.read(rows).numpy()
        checksums[rows] = [zlib.crc32(image) for image in pixels[rows]]
    pixels.flush()
    np.save(folder / CHECKSUMS, checksums)


def blocks(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows 0..count − 1 in runs of at most `size`."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))
