"""The numbers that a cell has: their keys, labels, and how methods are compared by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ALPHA = 0.05
SHARES_IN_TABLES = (0.0, 0.2, 0.5, 1.0)
CURVES = ("mAP", "NFR_at_1", "NFR_at_5")


@dataclass(frozen=True)
class Quantity:
    """A number that a cell has: its key in MLflow, its label, and how methods are compared by it.

    `better` is +1 where more is better, −1 where less is, 0 where methods are not ranked.
    `test` is "sign-flip" or "McNemar", or empty where no claim is made.
    """

    key: str
    label: str
    better: int = 1
    test: str = ""


TRAINING_RATE = Quantity("train_images_per_s", "train img/s")
# What one architecture does, whatever the method that trained it.
ARCHITECTURE_RATES = (
    Quantity("embed_images_per_s", "embed img/s"),
    Quantity("search_queries_per_s", "searches/s"),
    Quantity("backfill_images_per_s", "backfill img/s"),
)


def quantities(shares: Iterable[float]) -> tuple[Quantity, ...]:
    """State what is derived from per-query records with these backfill shares."""
    shown = [share for share in SHARES_IN_TABLES if np.isclose(list(shares), share).any()]
    return (
        Quantity("M_old_old", "M(o,o)", 0),
        Quantity("M_new_old", "M(n,o)", 1, "sign-flip"),
        Quantity("M_new_new", "M(n,n)", 1, "sign-flip"),
        Quantity("AUC_mAP", "AUC mAP", 1, "sign-flip"),
        *(
            Quantity(f"NFR_at_1@{share:.0%}", f"NFR@1 {share:.0%}", -1, "McNemar")
            for share in shown
        ),
        Quantity("AUC_NFR_at_1", "AUC NFR@1", -1, "sign-flip"),
        Quantity("compatibility_tax", "tax", -1),
        Quantity("update_gain", "update gain"),
        Quantity("P_1", "P_1"),
    )


def flip_keys(shares: Array) -> list[str]:
    """Name NFR@1 at each share."""
    return [f"NFR_at_1@{share:.0%}" for share in shares]
