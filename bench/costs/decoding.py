"""What it takes to decode an image: of the data where they are here, else of made-up pictures."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.data.images import FileImages, crops
from bench.protocol import Images
from bench.suites.schema import Recipe
from bench.training.batches import draw_window

PICTURES, BUDGET = 16, 0.3  # seconds
WIDTH, HEIGHT = 800, 600  # of made-up pictures: as large as those of Google Landmarks v2


def pictures(folder: Path, count: int, width: int, height: int, size: int) -> FileImages:
    """Write JPEG files of smooth noise, about as hard to decode as photographs; read at `size`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
    return FileImages(folder, [f"{number}.jpg" for number in range(count)], size)


def decoding_seconds(images: Images | None, size: int, crops_of: Recipe | None = None) -> float:
    """Seconds that one core takes to decode an image to `size` pixels, or a window of a recipe.

    `images` are those of the data; without, pictures are made up.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = images or pictures(Path(folder), PICTURES, WIDTH, HEIGHT, size)
        if isinstance(source, FileImages):
            source = FileImages(source.root, source.paths, size, source.fit, source.boxes)
        rows = np.linspace(0, len(source) - 1, min(len(source), PICTURES)).astype(np.int64)
        former = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            _read(source, rows, size, crops_of)  # warm-up
            done, started = 0, time.perf_counter()
            while (spent := time.perf_counter() - started) < BUDGET or not done:
                _read(source, rows, size, crops_of)
                done += len(rows)
            return spent / done
        finally:
            torch.set_num_threads(former)


def _read(source: Images, rows: NDArray[np.int64], size: int, crops_of: Recipe | None) -> None:
    if crops_of is None:
        source.read(rows)
    else:
        window = partial(draw_window, crops_of, np.random.default_rng(0))
        crops(source, rows, [window] * len(rows), size)
