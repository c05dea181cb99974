"""The one place that normalises, scores and ranks: cosine, ties by gallery index, exactly.

Unit rows are rounded to multiples of 2⁻²⁶. Products of two entries are then multiples of 2⁻⁵², and
every partial sum of a dot product is below 2, so that float64 holds it exactly, in any order of
summation. The score of two vectors is thus one number wherever they are stored: it depends on no
block size, thread count or device, and equal vectors tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BenchError

GRID = 2.0**26
_PAIR_ENTRIES = 1 << 22
_CACHED_PAIRS = 1024
_CHECKED_ROWS = 4096
_BLOCK = 8192  # rows that are normalised at a time
_PROBE = 64  # rows of a product that is large enough for tensor cores


def normalise(
    array: NDArray[Any], name: str = "embeddings", numbers: int | NDArray[np.int64] = 0
) -> NDArray[np.float32]:
    """Scale rows [N, D] to unit length, rounded to multiples of 2⁻²⁶.

    A row's result depends on that row alone. Raises BenchError for a row that holds NaN or infinity
    or only zeros, naming the first one by `name` and row: `numbers` is the number of the first row
    or those of all rows.
    """
    unit = np.empty(array.shape, np.float32)
    unusable: list[NDArray[np.int64]] = []
    # Block by block: float64 copies of a whole gallery would take six times its own memory.
    for start in range(0, len(array), _BLOCK):
        part = slice(start, start + _BLOCK)
        unusable.append(start + _normalise_block(array[part], unit[part]))
    rows = np.concatenate([np.empty(0, np.int64), *unusable])
    if len(rows):
        row = int(rows[0])
        number = row + numbers if isinstance(numbers, int) else numbers[row]
        found = "only zeros" if not np.any(array[row]) else "NaN or infinity"
        raise BenchError(
            f"{name}: row {number} holds {found} ({len(rows)} such rows of {len(array)}); "
            "a cosine needs finite, non-zero vectors: embed these items again or leave them out"
        )
    return unit


def _normalise_block(array: NDArray[Any], unit: NDArray[np.float32]) -> NDArray[np.int64]:
    """Write unit rows into `unit`; return the rows that have no direction."""
    rows = np.ascontiguousarray(array, dtype=np.float64)
    # Dividing by the largest entry first keeps squares of very large or small entries in range.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    unusable = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if len(unusable):
        return unusable
    rows = rows / largest
    rows /= np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    np.rint(rows.astype(np.float32) * np.float32(GRID), out=unit)
    unit /= np.float32(GRID)
    return unusable


def unit_rows(array: NDArray[Any], name: str = "embeddings", first: int = 0) -> Tensor:
    """Scale rows [N, D] to unit length in plain float32, for products with an error margin.

    Raises BenchError like `normalise`; `first` is the number of the first row.
    """
    rows = torch.from_numpy(np.array(array, dtype=np.float32))
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not bool(((length > 1e-15) & (length < 1e15)).all()):
        return torch.from_numpy(normalise(array, name, first))
    return rows.div_(length)


def check_rows(array: NDArray[Any], name: str) -> None:
    """Raise BenchError, naming the first one, where rows cannot be normalised."""
    for start in range(0, len(array), _CHECKED_ROWS):
        unit_rows(array[start : start + _CHECKED_ROWS], name, start)


Each = Callable[[Callable[[Any], None], Iterable[Any]], None]


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def ieee_products(device: torch.device) -> Iterator[None]:
    """Have float32 products computed in IEEE arithmetic, whatever this process's setting is.

    Libraries may be told to round the factors to TF32 or bfloat16 (NVIDIA's containers do), for
    which no error bound of a float32 product holds. Raises BenchError where they do so all the
    same, after a product that shows it.
    """
    mkldnn: Any = torch.backends.mkldnn
    backends: list[Any] = [torch.backends.cuda.matmul, mkldnn.matmul]
    former = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        _refuse_rounded_products(device)
        yield
    finally:
        for backend, setting in zip(backends, former, strict=True):
            backend.fp32_precision = setting


def _refuse_rounded_products(device: torch.device) -> None:
    """Multiply numbers of which TF32 (10 bits) and bfloat16 (7 bits) would lose the last one."""
    factors = torch.eye(_PROBE, device=device) * (1 + 2.0**-20)
    if not torch.equal(factors @ torch.eye(_PROBE, device=device), factors):
        raise BenchError(
            f"float32 products on {device} are rounded to a shorter format, and a ranking would be "
            "wrong unnoticed; unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, and "
            "leave torch.set_float32_matmul_precision at 'highest'"
        )


def in_turn(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """Do the work on one piece after the other."""
    for piece in pieces:
        work(piece)


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Each]:
    """Return a function that does some work on many pieces, on all of torch's threads.

    On a CPU each thread takes whole pieces: threads that share every single operation would wait
    for each other at its end.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield in_turn
        return

    def each(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
        for _ in pool.map(work, pieces):
            pass

    # The number of threads is partly the thread's own and partly the process's setting.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield each
        finally:
            torch.set_num_threads(threads)


def exact_scores(
    query: Tensor,
    gallery: NDArray[Any],
    queries: Tensor,
    rows: Tensor,
    name: str = "gallery",
    each: Each = in_turn,
) -> Tensor:
    """Score pairs exactly: normalised `query` [Q, D] at `queries` [P] with gallery `rows` [P].

    Only the rows asked for are read and normalised. Returns float64 [P].
    """
    query = query.double()
    scores = torch.empty(len(rows), dtype=torch.float64, device=query.device)
    chunk = max(1, _PAIR_ENTRIES // query.shape[1])

    def score(part: slice) -> None:
        needed, position = torch.unique(rows[part], return_inverse=True)
        numbers = needed.cpu().numpy()
        unit = torch.from_numpy(normalise(gallery[numbers], name, numbers)).to(query.device)
        scores[part] = pair_products(unit.double(), position, query, queries[part])

    each(score, [slice(start, start + chunk) for start in range(0, len(rows), chunk)])
    return scores


def pair_products(left: Tensor, lefts: Tensor, right: Tensor, rights: Tensor) -> Tensor:
    """Dot products [P] of rows `lefts` [P] of `left` with rows `rights` [P] of `right`."""
    products = torch.empty(len(lefts), dtype=left.dtype, device=left.device)
    for start in range(0, len(lefts), _CACHED_PAIRS):
        part = slice(start, start + _CACHED_PAIRS)
        pairs = left.index_select(0, lefts[part]).mul_(right.index_select(0, rights[part]))
        torch.sum(pairs, 1, out=products[part])
    return products


def ranking(scores: Tensor) -> Tensor:
    """Rank a gallery by `scores` [Q, N]: rows [Q, N], best first, ties by gallery index."""
    return torch.sort(scores, dim=1, descending=True, stable=True).indices
