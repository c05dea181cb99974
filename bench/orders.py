"""Backfill orders: which gallery items get their new embedding first, most uncertain first.

An order reads what it declared and nothing else, out of a `Knowledge` that has no place for new
embeddings of gallery items: before the backfill they do not exist. Neither are gallery labels
known; class prototypes come from the stored old embeddings of the *training* images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BenchError, unknown
from bench.relevance import Relevance
from bench.retrieval import normalise

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Uncertainty = Callable[[Tensor], Tensor]
_LOGITS = 1 << 24


class UndeclaredReadError(RuntimeError):
    """An order read something that it did not declare in `needs`."""


@dataclass(frozen=True)
class Knowledge:
    """What a system knows before it backfills; None where it is not at hand.

    `gallery_old` [N, Do] stored embeddings of the gallery; `old_head` [Co, Do] and `new_head`
    [C, Dn] class vectors; `train_old` [M, Do] stored old embeddings of the training images with
    `train_labels` [M]; `method_uncertainty` [N] a method's own estimate, from the old gallery
    embeddings alone; `relevance` the ground truth, for the oracle. Logits are cosines divided by
    `temperature`.
    """

    size: int
    gallery_old: NDArray[Any] | None = None
    old_head: NDArray[Any] | None = None
    new_head: NDArray[Any] | None = None
    train_old: NDArray[Any] | None = None
    train_labels: Rows | None = None
    method_uncertainty: NDArray[Any] | None = None
    relevance: Relevance | None = None
    temperature: float = 0.05


class Declared:
    """The part of a `Knowledge` that an order declared; reading any other part is an error."""

    def __init__(self, knowledge: Knowledge, order: Order) -> None:
        self._knowledge, self._order = knowledge, order
        for need in order.needs:
            if getattr(knowledge, need) is None:
                raise BenchError(
                    f"backfill order '{order.name}' needs {need.replace('_', ' ')}, which is not "
                    "at hand here; choose another order, such as 'random'"
                )

    def __getattr__(self, name: str) -> Any:
        if name not in self._order.needs and name not in ("size", "temperature"):
            raise UndeclaredReadError(
                f"backfill order '{self._order.name}' read {name} but declares only "
                f"{', '.join(sorted(self._order.needs)) or 'nothing'}"
            )
        return getattr(self._knowledge, name)


@dataclass(frozen=True)
class Order:
    """A backfill order: `priority` gives each gallery item a number [N], the largest goes first.

    `needs` names the fields of `Knowledge` it reads.
    """

    name: str
    summary: str
    priority: Callable[[Any, np.random.Generator], NDArray[Any]]
    needs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        missing = self.needs - {field.name for field in fields(Knowledge)}
        if missing:
            raise ValueError(f"order '{self.name}' needs {missing}, which no Knowledge holds")


def order(name: str, knowledge: Knowledge, generator: np.random.Generator) -> Rows:
    """Return the gallery rows [N] as they are backfilled; ties go by gallery row.

    Raises BenchError for an unknown order, one whose needs are not at hand, and widths that differ.
    """
    if name not in ORDERS:
        raise unknown("backfill order", name, ORDERS)
    priority = np.asarray(ORDERS[name].priority(Declared(knowledge, ORDERS[name]), generator))
    if priority.shape != (knowledge.size,) or np.isnan(priority).any():
        raise BenchError(
            f"backfill order '{name}' gave priorities of shape {priority.shape} with "
            f"{int(np.isnan(priority).sum())} NaN; expected one number for each of "
            f"{knowledge.size} gallery items"
        )
    return np.argsort(-priority, kind="stable").astype(np.int64)


# --------------------------------------------------------------------------------- uncertainties


def least_confidence(probabilities: Tensor) -> Tensor:
    """One minus the largest class probability: [B] of [B, C]."""
    return 1 - probabilities.amax(1)


def margin(probabilities: Tensor) -> Tensor:
    """Minus the lead of the likeliest class over the next: [B] of [B, C]."""
    best = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values
    return best[:, -1] - best[:, 0]


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats: [B] of [B, C]."""
    total: Tensor = torch.special.entr(probabilities).sum(1)
    return total


def _random(knowledge: Any, generator: np.random.Generator) -> Array:
    draws: Array = generator.random(knowledge.size)
    return draws


def _oracle(knowledge: Any, generator: np.random.Generator) -> Array:
    """Weigh an item by the queries it answers, each counting 1 / number of its answers."""
    counts = knowledge.relevance.relevant.counts()
    weights = np.repeat(1 / np.maximum(counts, 1), counts)
    rows = knowledge.relevance.relevant.rows
    return np.bincount(rows, weights, minlength=knowledge.size).astype(np.float64)


def _method(knowledge: Any, generator: np.random.Generator) -> Array:
    return np.asarray(knowledge.method_uncertainty, dtype=np.float64)


def _softmax_order(
    classes: Callable[[Any], NDArray[Any]],
    uncertainty: Uncertainty,
    knowledge: Any,
    generator: np.random.Generator,
) -> Array:
    """Uncertainty of a softmax over cosines of the stored old embeddings and class vectors."""
    return np.concatenate(
        [
            uncertainty((cosines / knowledge.temperature).softmax(1)).numpy()
            for cosines in _cosines(knowledge.gallery_old, classes(knowledge))
        ]
    )


def _centre_distance(knowledge: Any, generator: np.random.Generator) -> Array:
    """Distance to the nearest class mean; for unit vectors it falls as their cosine rises."""
    return np.concatenate(
        [
            (2 - 2 * cosines.amax(1)).clamp(min=0).sqrt().numpy()
            for cosines in _cosines(knowledge.gallery_old, _prototypes(knowledge))
        ]
    )


def _cosines(gallery: NDArray[Any], classes: NDArray[Any]) -> Iterator[Tensor]:
    """Cosines of gallery rows and class vectors [C, D], block by block of the gallery."""
    if gallery.shape[1] != classes.shape[1]:
        raise BenchError(
            f"stored old embeddings have width {gallery.shape[1]} but the class vectors have width "
            f"{classes.shape[1]}: an order by the new head needs equal widths; choose one by the "
            "old head or by prototypes"
        )
    vectors = torch.from_numpy(normalise(classes, "class vectors")).double()
    block = max(1, _LOGITS // len(classes))
    for start in range(0, len(gallery), block):
        rows = normalise(gallery[start : start + block], "old gallery", start)
        yield torch.from_numpy(rows).double() @ vectors.T


def _prototypes(knowledge: Any) -> NDArray[Any]:
    """Mean stored old embedding of each training class that has images [C, Do]."""
    _, classes = np.unique(knowledge.train_labels, return_inverse=True)
    unit = normalise(knowledge.train_old, "old training embeddings").astype(np.float64)
    sums = np.zeros((classes.max() + 1, unit.shape[1]))
    np.add.at(sums, classes, unit)
    return sums / np.bincount(classes)[:, None]


def _old_head(knowledge: Any) -> NDArray[Any]:
    head: NDArray[Any] = knowledge.old_head
    return head


def _new_head(knowledge: Any) -> NDArray[Any]:
    head: NDArray[Any] = knowledge.new_head
    return head


_UNCERTAINTIES: dict[str, Uncertainty] = {
    "confidence": least_confidence,
    "margin": margin,
    "entropy": entropy,
}
_PROTOTYPES = frozenset({"train_old", "train_labels"})
_CLASS_VECTORS = {
    "old-head": ("the old head", _old_head, frozenset({"old_head"})),
    "new-head": ("the new head", _new_head, frozenset({"new_head"})),
    "prototypes": ("class means of stored old embeddings", _prototypes, _PROTOTYPES),
}
_GALLERY = frozenset({"gallery_old"})

ORDERS: dict[str, Order] = {
    entry.name: entry
    for entry in (
        Order("random", "seeded shuffle", _random),
        *(
            Order(
                f"{measure}-{source}",
                f"{measure} of a softmax over {words}",
                partial(_softmax_order, classes, uncertainty),
                _GALLERY | needs,
            )
            for measure, uncertainty in _UNCERTAINTIES.items()
            for source, (words, classes, needs) in _CLASS_VECTORS.items()
        ),
        Order(
            "centre-distance",
            "distance to the nearest class mean of stored old embeddings",
            _centre_distance,
            _GALLERY | _PROTOTYPES,
        ),
        Order(
            "method",
            "the method's own uncertainty of the old embedding",
            _method,
            frozenset({"method_uncertainty"}),
        ),
        Order(
            "oracle",
            "upper bound that no deployed system has: items by the queries they answer",
            _oracle,
            frozenset({"relevance"}),
        ),
    )
}
