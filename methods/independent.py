"""No compatibility term: the upper bound φ* that only a cold refresh can deploy."""

from __future__ import annotations

from typing import ClassVar

from bench.protocol import Method


class Independent(Method):
    """Train the new model as if there were no old one; M(*,*) is its accuracy."""

    needs_old: ClassVar[bool] = False
