"""Sources of images: anything with a length and `read(rows) → uint8 [B, 3, H, W]`."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.data.decode import Fit, Window, decode, inside, square
from bench.errors import BenchError
from bench.protocol import Images
from bench.storage.files import locked, set_aside, unfinished

logger = logging.getLogger(__name__)
PIXELS, CHECKSUMS = "pixels.npy", "checksums.npy"
PACKED_AT_A_TIME = 256
Rows = Sequence[int] | NDArray[np.int64]
Result = TypeVar("Result")


def crops(images: Images, rows: Rows, windows: Sequence[Window], size: int) -> Tensor:
    """Cut a window out of each original picture and stretch it: uint8 [B, 3, size, size].

    Raises BenchError for a source of images that has no originals to cut from.
    """
    cut = getattr(images, "crops", None)
    if cut is None:
        raise BenchError(
            f"{type(images).__name__} has no original pictures to crop, which crop_from = "
            "'original' asks for; give crop_from a number of pixels, or the class a method `crops`"
        )
    found: Tensor = cut(rows, windows, size)
    return found


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

    def read(self, rows: Rows) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, H, W]; grey becomes three equal channels."""
        pixels = torch.from_numpy(self.pixels[np.asarray(rows, dtype=np.int64)])
        if pixels.ndim == 3:
            pixels = pixels.unsqueeze(1).expand(-1, 3, -1, -1)
        return pixels.contiguous()

    def crops(self, rows: Rows, windows: Sequence[Window], size: int) -> Tensor:
        """Return a window of each of `rows`, as the array has them, as uint8 [B, 3, size, size]."""
        whole = ArrayImages.read(self, rows).permute(0, 2, 3, 1).numpy()
        cut = [
            square(Image.fromarray(pixels), size, window=window)
            for pixels, window in zip(whole, windows, strict=True)
        ]
        return torch.from_numpy(np.stack(cut))


class NoImages:
    """Items that nobody can look at: they are known by their vectors alone."""

    def __init__(self, count: int, what: str) -> None:
        self.count, self.what = count, what

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Raise BenchError: there are no pixels."""
        raise BenchError(f"{self.what} have no images, and vectors did not take their place")


class FileImages:
    """Image files below `root`, decoded whenever they are read, on all of torch's threads.

    `boxes` [N, 4] are cut out before resizing (left, top, right, bottom). `origin(row)` says in an
    error where the row was listed. `follow_links` allows links that lead out of the root.
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
        follow_links: bool = False,
    ) -> None:
        self.root, self.paths, self.boxes = root, paths, boxes
        self.size, self.fit, self.origin = size, fit, origin
        self.follow_links = follow_links

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Rows) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, S, S].

        Raises BenchError naming the file and the line that lists it.
        """
        return self._decoded(rows, self.size, [None] * len(rows))

    def crops(self, rows: Rows, windows: Sequence[Window], size: int) -> Tensor:
        """Return a window of each image, cut from the file's own pixels, as [B, 3, size, size].

        Raises as `read` does.
        """
        return self._decoded(rows, size, windows)

    def _decoded(self, rows: Rows, size: int, windows: Sequence[Window | None]) -> Tensor:
        pixels = np.empty((len(rows), 3, size, size), np.uint8)

        def read_one(place: int) -> None:
            pixels[place] = self.decode(int(rows[place]), size, windows[place])

        _on_threads(read_one, len(rows))
        return torch.from_numpy(pixels)

    def decode(
        self, row: int, size: int | None = None, window: Window | None = None
    ) -> NDArray[np.uint8]:
        """Return one image [3, S, S], or a window of it."""
        box = None if self.boxes is None else tuple(self.boxes[row].tolist())
        try:
            path = inside(self.root, self.paths[row], self.follow_links)
            return decode(path, size or self.size, self.fit, box, window)
        except BenchError as error:
            raise type(error)(f"{error}{self.origin(row)}") from error


class PackedImages(ArrayImages):
    """Images [N, 3, S, S] of a `source`, decoded once into a memory-mapped file in `folder`.

    They are read on all of torch's threads, as a disk answers several at once. Every image is
    checked whenever it is read; one that is damaged, or another folder's, is told of and decoded
    anew. Files that hold no such images raise what numpy raises, or ValueError.
    """

    def __init__(self, folder: Path, source: Images, size: int) -> None:
        self.folder, self.source = folder, source
        self.checksums = np.load(folder / CHECKSUMS, allow_pickle=False)
        super().__init__(np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False))
        expected = (len(source), 3, size, size)
        if self.pixels.shape != expected or self.checksums.shape != expected[:1]:
            raise ValueError(
                f"it holds images {self.pixels.shape} and checksums {self.checksums.shape}, "
                f"expected images {expected} and a checksum for each"
            )

    def read(self, rows: Rows) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, S, S]."""
        rows = np.asarray(rows, dtype=np.int64)
        pixels = np.empty((len(rows), *self.pixels.shape[1:]), np.uint8)

        def read_one(place: int) -> bool:
            row = rows[place]
            pixels[place] = self.pixels[row]
            return bool(_checksum(pixels[place], self.folder, row) == self.checksums[row])

        damaged = [
            place for place, whole in enumerate(_on_threads(read_one, len(rows))) if not whole
        ]
        if damaged:
            pixels[damaged] = self.source.read(rows[damaged]).numpy()
            self._repair(rows[damaged], pixels[damaged])
        return torch.from_numpy(pixels)

    def _repair(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Write images in place of damaged ones. Whoever reads meanwhile does the same."""
        logger.warning("image %d of %s is damaged; decoded anew", rows[0], self.folder)
        with suppress(OSError):  # where it cannot be written, it is decoded whenever it is read
            kept = np.load(self.folder / PIXELS, mmap_mode="r+", allow_pickle=False)
            checksums = np.load(self.folder / CHECKSUMS, mmap_mode="r+", allow_pickle=False)
            kept[rows] = pixels
            checksums[rows] = _checksums(pixels, self.folder, rows)
            self.checksums = checksums


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

    def read(self, rows: Rows) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, S, S]."""
        return self.packed.read(rows)

    def crops(self, rows: Rows, windows: Sequence[Window], size: int) -> Tensor:
        """Return windows of the images as they are, not as they are packed."""
        return crops(self.images, rows, windows, size)


def pack(images: Images, size: int, folder: Path) -> PackedImages:
    """Decode every image once into `folder`, unless that was done before.

    One process packs, others wait for it; a failure leaves nothing. A folder that cannot be used is
    told of, set aside and made anew.
    """
    with locked(folder):
        if os.path.lexists(folder):
            try:
                return PackedImages(folder, images, size)
            except Exception as error:  # a damaged file may fail in any way
                aside = set_aside(folder)
                logger.warning("%s: %s; set aside in %s and made anew", folder, error, aside)
        with unfinished(folder) as work:
            _write_packed(images, size, work, folder)
            os.replace(work, folder)
    return PackedImages(folder, images, size)


def _write_packed(images: Images, size: int, work: Path, folder: Path) -> None:
    pixels = np.lib.format.open_memmap(
        work / PIXELS, mode="w+", dtype=np.uint8, shape=(len(images), 3, size, size)
    )
    checksums = np.empty(len(images), np.uint32)
    for rows in blocks(len(images), PACKED_AT_A_TIME):
        pixels[rows] = images.read(rows).numpy()
        checksums[rows] = _checksums(pixels[rows], folder, rows)
    pixels.flush()
    np.save(work / CHECKSUMS, checksums)


def _checksums(pixels: NDArray[np.uint8], folder: Path, rows: NDArray[np.int64]) -> list[int]:
    return [_checksum(image, folder, row) for image, row in zip(pixels, rows, strict=True)]


def _checksum(image: NDArray[np.uint8], folder: Path, row: np.int64) -> int:
    """Hash an image and its place, so that no other one can stand there unnoticed."""
    return zlib.crc32(image.data, zlib.crc32(f"{folder.name}/{row}".encode()))


def _on_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """Return `work` of each number below `count`, done on all of torch's threads."""
    threads = torch.get_num_threads()
    if threads == 1 or count < 2:
        return [work(place) for place in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


def blocks(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows 0..count − 1 in runs of at most `size`."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))
