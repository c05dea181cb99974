"""Images → unit embeddings, written to a memory-mapped file batch by batch."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from bench.models import Embedder
from bench.protocol import ImageSet

BATCH = 256


def embed(fabric: Fabric, embedder: Embedder, images: ImageSet, width: int, path: Path) -> float:
    """Embed every image in order into `path`, a float32 array [N, width]; return images/s.

    The rate leaves the first batch out as warm-up where there is more than one.
    """
    embeddings = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(len(images), width)
    )
    embedder.eval()
    marks = [time.perf_counter()]
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            rows = np.arange(start, min(start + BATCH, len(images)))
            batch = fabric.to_device(images.images.read(rows)).float().div_(255)
            embeddings[rows] = embedder(batch).cpu().numpy()
            marks.append(time.perf_counter())
    embeddings.flush()
    skipped = 1 if len(marks) > 2 else 0
    return (len(images) - skipped * BATCH) / (marks[-1] - marks[skipped])


def load(path: Path) -> NDArray[np.float32]:
    """Open embeddings [N, D] as a read-only memory map."""
    array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
