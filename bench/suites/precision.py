"""In which number format backbones compute on this machine."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
_elsewhere: bool | None = None


def resolve_precision(precision: Precision) -> Precision:
    """Settle `auto`: bfloat16 where this machine multiplies it natively, else float32.

    Where a cluster does the work, its nodes were asked (`settle_elsewhere`): the machine that plans
    may be one without a GPU. A plan holds the answer, so that results of different formats have
    different keys and every node of a cluster computes in the same one.
    """
    if precision != "auto":
        return precision
    native = native_bfloat16() if _elsewhere is None else _elsewhere
    return "bfloat16" if native else "float32"


def settle_elsewhere(native: bool | None) -> None:
    """Settle `auto` by what the machines answer that do the work; None: by this one, which does."""
    global _elsewhere
    _elsewhere = native


def native_bfloat16() -> bool:
    """Return whether products of bfloat16 run in hardware here; emulated they are slower."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Only private names tell it of a CPU.
    capable = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in capable)
