"""Sources of images: anything with a length and `read(rows) → uint8 [B, 3, H, W]`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
