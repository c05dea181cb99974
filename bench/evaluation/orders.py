"""Backfill orders: which gallery items get their new embedding first, most uncertain first.

An order reads what it declared and nothing else, out of `OrderInputs`. New embeddings of gallery
items do not exist before the backfill, and no answer is known: both are `hindsight`, which only an
oracle may declare. Neither are gallery labels known; class prototypes come from the stored old
embeddings of the *training* images. docs/orders.md tells what each order was found to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, unknown
from bench.evaluation.oracles import Hindsight, first_hit_gain, precision_gain

if TYPE_CHECKING:  # reports name orders, and need no torch for that
    from torch import Tensor

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Uncertainty = Callable[["Tensor"], "Tensor"]
_LOGITS = 1 << 24
_ROWS = 1 << 16  # unit rows in float64 at a time


class UndeclaredReadError(RuntimeError):
    """An order read something that it did not declare in `needs`."""


@dataclass(frozen=True)
class OrderInputs:
    """What a system knows before it backfills; None where it is not at hand.

    `gallery_old` [N, Do] stored embeddings of the gallery; `old_head` [Co, Do] and `new_head`
    [C, Dn] class vectors; `train_old` [M, Do] stored old embeddings of the training images with
    `train_labels` [M]; `method_uncertainty` [N] a method's own estimate, from the old gallery
    embeddings alone. Logits are cosines divided by `temperature`. `hindsight` is what no system
    knows beforehand: an order that reads it is an oracle.
    """

    size: int
    gallery_old: NDArray[Any] | None = None
    old_head: NDArray[Any] | None = None
    new_head: NDArray[Any] | None = None
    train_old: NDArray[Any] | None = None
    train_labels: Rows | None = None
    method_uncertainty: NDArray[Any] | None = None
    hindsight: Hindsight | None = None
    temperature: float = 0.05


class DeclaredInputs:
    """The part of a `OrderInputs` that an order declared; reading any other part is an error."""

    def __init__(self, knowledge: OrderInputs, order: Order) -> None:
        self._knowledge, self._order = knowledge, order
        for need in order.needs:
            if getattr(knowledge, need) is None:
                raise BenchError(
                    f"backfill order '{order.name}' needs {need.replace('_', ' ')}, which is not "
                    "at hand here; choose another order, such as 'random'"
                )

    def __getattr__(self, name: str) -> Any:
        if name not in {*self._order.needs, *self._order.uses, "size", "temperature"}:
            raise UndeclaredReadError(
                f"backfill order '{self._order.name}' read {name} but declares only "
                f"{', '.join(sorted(self._order.needs)) or 'nothing'}"
            )
        return getattr(self._knowledge, name)


@dataclass(frozen=True)
class Order:
    """A backfill order: `priority` gives each gallery item a number [N], the largest goes first.

    `needs` names the fields of `OrderInputs` it reads, `uses` those that it reads where they are at
    hand. `reads_gallery` says that an item's place depends on the stored embeddings of *other*
    gallery items (their neighbourhood, density or clusters) and not on its own alone: where queries
    are gallery items, such an order reads the queries, and no claim about it holds elsewhere.
    Raises ValueError for fields that `OrderInputs` does not have.
    """

    name: str
    summary: str
    priority: Callable[[Any, np.random.Generator], NDArray[Any]]
    needs: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    reads_gallery: bool = False

    @property
    def reads_truth(self) -> bool:
        """Whether it is an oracle, which no deployed system can follow."""
        return "hindsight" in self.needs

    def __post_init__(self) -> None:
        missing = (self.needs | self.uses) - {field.name for field in fields(OrderInputs)}
        if missing:
            raise ValueError(f"order '{self.name}' needs {missing}, which no OrderInputs holds")


def order(name: str, knowledge: OrderInputs, generator: np.random.Generator) -> Rows:
    """Return the gallery rows [N] as they are backfilled; ties go by gallery row.

    Raises BenchError for an unknown order, one whose needs are not at hand, and widths that differ.
    """
    if name not in ORDERS:
        raise unknown("backfill order", name, ORDERS)
    priority = np.asarray(ORDERS[name].priority(DeclaredInputs(knowledge, ORDERS[name]), generator))
    if priority.shape != (knowledge.size,) or np.isnan(priority).any():
        raise BenchError(
            f"backfill order '{name}' gave priorities of shape {priority.shape} with "
            f"{int(np.isnan(priority).sum())} NaN; expected one number for each of "
            f"{knowledge.size} gallery items"
        )
    return np.argsort(-priority, kind="stable").astype(np.int64)


def read(names: Iterable[str], field: str) -> bool:
    """Return whether one of some orders may read a field of `OrderInputs`."""
    return any(field in ORDERS[name].needs | ORDERS[name].uses for name in names)


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
    import torch

    total: Tensor = torch.special.entr(probabilities).sum(1)
    return total


def _random(knowledge: Any, generator: np.random.Generator) -> Array:
    draws: Array = generator.random(knowledge.size)
    return draws


def _answers(knowledge: Any, generator: np.random.Generator) -> Array:
    """Weigh an item by the queries it answers, each counting 1 / number of its answers."""
    relevant = knowledge.hindsight.relevance.relevant
    counts = relevant.counts()
    weights = np.repeat(1 / np.maximum(counts, 1), counts)
    return np.bincount(relevant.rows, weights, minlength=knowledge.size).astype(np.float64)


def _best_order(
    worth: Callable[[Hindsight, Rows], float], knowledge: Any, generator: np.random.Generator
) -> Array:
    """Keep the best of all other orders that can be followed here and of two greedy ones."""
    hindsight: Hindsight = knowledge.hindsight
    given = OrderInputs(
        **{field.name: getattr(knowledge, field.name) for field in fields(OrderInputs)}
    )
    everything = np.ones(hindsight.relevance.query_count, bool)
    found = [hindsight.greedy(precision_gain, everything)]
    if hindsight.answered is not None:
        found.append(hindsight.greedy(first_hit_gain, hindsight.answered))
    for name in (name for name in ORDERS if name not in _ORACLES):
        with suppress(BenchError):  # what it needs is not at hand, or of another width
            found.append(order(name, given, deepcopy(generator)))
    best = max(found, key=lambda rows: worth(hindsight, rows))
    priority = np.empty(knowledge.size)
    priority[best] = -np.arange(knowledge.size)
    return priority


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
            uncertainty((cosines / knowledge.temperature).softmax(1)).cpu().numpy()
            for cosines in _cosines(knowledge.gallery_old, classes(knowledge))
        ]
    )


def _centre_distance(knowledge: Any, generator: np.random.Generator) -> Array:
    """Distance to the nearest class mean; for unit vectors it falls as their cosine rises."""
    return np.concatenate(
        [
            (2 - 2 * cosines.amax(1)).clamp(min=0).sqrt().cpu().numpy()
            for cosines in _cosines(knowledge.gallery_old, _prototypes(knowledge))
        ]
    )


def _gallery_distance(knowledge: Any, generator: np.random.Generator) -> Array:
    """Distance of unit rows to their mean, but for terms that all items share."""
    gallery = knowledge.gallery_old
    mean = sum(rows.sum(0) for _, rows in _unit_blocks(gallery, "old gallery")) / len(gallery)
    return -np.concatenate([rows @ mean for _, rows in _unit_blocks(gallery, "old gallery")])


def _unit_blocks(array: NDArray[Any], name: str) -> Iterator[tuple[slice, Array]]:
    """Unit rows in float64, block by block; sums of them are exact, and so the same in any order.

    They are multiples of 2⁻²⁶ in [−1, 1], of which float64 holds a sum of 2²⁶.
    """
    from bench.evaluation.scores import normalise

    for start in range(0, len(array), _ROWS):
        part = slice(start, start + _ROWS)
        yield part, normalise(array[part], name, start).astype(np.float64)


def _cosines(gallery: NDArray[Any], classes: NDArray[Any]) -> Iterator[Tensor]:
    """Cosines of gallery rows and class vectors [C, D], block by block of the gallery."""
    import torch

    from bench.evaluation.scores import default_device, normalise

    if gallery.shape[1] != classes.shape[1]:
        raise BenchError(
            f"stored old embeddings have width {gallery.shape[1]} but the class vectors have width "
            f"{classes.shape[1]}: an order by the new head needs equal widths; choose one by the "
            "old head or by prototypes"
        )
    device = default_device()
    vectors = torch.from_numpy(normalise(classes, "class vectors")).to(device).double()
    block = max(1, _LOGITS // len(classes))
    for start in range(0, len(gallery), block):
        rows = normalise(gallery[start : start + block], "old gallery", start)
        yield torch.from_numpy(rows).to(device).double() @ vectors.T


def _prototypes(knowledge: Any) -> NDArray[Any]:
    """Mean stored old embedding of each training class that has images [C, Do]."""
    import torch

    _, classes = np.unique(knowledge.train_labels, return_inverse=True)
    train = knowledge.train_old
    sums = torch.zeros(int(classes.max()) + 1, train.shape[1], dtype=torch.float64)
    for part, unit in _unit_blocks(train, "old training embeddings"):
        sums.index_add_(0, torch.from_numpy(classes[part]), torch.from_numpy(unit))
    return np.asarray(sums.numpy() / np.bincount(classes)[:, None])


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
            "gallery-distance",
            "distance to the mean of all stored old embeddings of the gallery",
            _gallery_distance,
            _GALLERY,
            reads_gallery=True,
        ),
        Order(
            "method",
            "the method's own uncertainty of the old embedding",
            _method,
            frozenset({"method_uncertainty"}),
        ),
        Order(
            "by-answered-queries",
            "knows the answers: items by the queries they answer, and so class by class; no bound",
            _answers,
            frozenset({"hindsight"}),
        ),
    )
}
_EVERYTHING = frozenset(field.name for field in fields(OrderInputs))
_ORACLES = {
    entry.name: entry
    for entry in (
        Order(
            f"oracle-{goal}",
            f"knows the answers: {words} of all these orders and of two greedy ones; not the best "
            "order that there could be",
            partial(_best_order, worth),
            frozenset({"hindsight"}),
            _EVERYTHING,
        )
        for goal, words, worth in (
            ("mAP", "the largest AUC mAP", Hindsight.mean_precision),
            ("flips", "the smallest AUC NFR@1", Hindsight.flips_avoided),
        )
    )
}
ORDERS |= _ORACLES

# The order by which the paper's claim is judged: RACT backfills by the uncertainty of a softmax
# over classes, whose head and temperature the text at hand does not fix. This one can be followed
# in every upgrade, whatever the widths of old and new embeddings are. Reasons: docs/orders.md.
PAPER_ORDER = "confidence-prototypes"
