"""Images → unit embeddings, written to a memory-mapped file batch by batch, by every rank."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from bench.protocol import ImageSet
from bench.training.loading import read_ahead
from bench.training.models import Embedder

BATCH = 256


def embed(
    fabric: Fabric, embedder: Embedder, images: ImageSet, width: int, path: Path, readers: int = 0
) -> float:
    """Embed every image in order into `path`, a float32 array [N, width]; return images/s.

    Each rank embeds its batches into the one file. The rate is that of all ranks; it leaves the
    first batch out as warm-up where there is more than one.
    """
    if fabric.is_global_zero:
        np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=(len(images), width)).flush()
    fabric.barrier()
    embeddings = np.lib.format.open_memmap(path, "r+")
    starts = range(0, len(images), BATCH)[fabric.global_rank :: fabric.world_size]
    blocks = [np.arange(start, min(start + BATCH, len(images))) for start in starts]
    embedder.eval()
    marks = [time.perf_counter()]
    with torch.inference_mode():
        reads = read_ahead(images.images, blocks, readers, fabric.device.type == "cuda")
        for rows, (batch, _) in zip(blocks, reads, strict=True):
            batch = fabric.to_device(batch)
            floats = batch.float().div_(255) if batch.dtype == torch.uint8 else batch  # or vectors
            embeddings[rows] = embedder(floats).cpu().numpy()
            marks.append(time.perf_counter())
    embeddings.flush()
    fabric.barrier()
    timed = sum(map(len, blocks[1:] or blocks))
    return fabric.world_size * timed / max(marks[-1] - marks[len(marks) > 2], 1e-9)


def load(path: Path) -> NDArray[np.float32]:
    """Open embeddings [N, D] as a read-only memory map."""
    array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
