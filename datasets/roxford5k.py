"""Revisited Oxford (Radenović et al., CVPR 2018): 70 cropped queries, easy, medium and hard."""

from __future__ import annotations

from typing import ClassVar

from datasets._revisited import Revisited


class RevisitedOxford(Revisited):
    """Trapezoidal AP at one difficulty; trained on another dataset."""

    published: ClassVar[dict[str, int]] = {"queries": 70, "gallery": 4_993}
