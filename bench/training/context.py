"""What a method may know before training, put together from the old and the independent system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.splits import Subset
from bench.protocol import Context

Embeddings = NDArray[np.float32]
ROWS = 1 << 16  # that are read at a time


@dataclass(frozen=True)
class OldSystem:
    """The system that is replaced: its classifier and the embeddings of all training images.

    `head` [Co, Do] has a row for each of the ascending `classes` [Co]; `embeddings` [N, Do] are
    those of the whole training split. Without an old system, everything is empty.
    """

    width: int = 0
    classes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    head: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    embeddings: Embeddings | None = None
    is_stored: bool = False


@dataclass(frozen=True)
class IndependentSystem:
    """The independently trained new model: classifier [C, Dn], training embeddings [N, Dn]."""

    head: Tensor
    embeddings: Embeddings


def make_context(
    labels: NDArray[np.int64],
    subset: Subset,
    width: int,
    temperature: float,
    old: OldSystem,
    independent: IndependentSystem | None,
    load_centres: Callable[[], Tensor] | None,
    device: torch.device,
) -> Context:
    """Return the context of a model that is trained on `subset` of the images with `labels` [N].

    Everything is put on `device`, embeddings and old class centres (`load_centres`) once they are
    read.
    """

    def on_device(array: Any) -> Tensor:
        return torch.as_tensor(np.array(array)).to(device)

    every_class = np.unique(labels)
    stored = np.zeros((len(labels), 0), np.float32) if old.embeddings is None else old.embeddings
    return Context(
        old_width=old.width,
        new_width=width,
        class_count=len(subset.classes),
        temperature=temperature,
        old_head=on_device(old.head),
        old_row=on_device(_positions(subset.classes, old.classes)),
        labels=on_device(subset.labels),
        old_embeddings=partial(rows_on, stored, subset.rows, device),
        independent_embeddings=None
        if independent is None
        else partial(rows_on, independent.embeddings, subset.rows, device),
        independent_head=None if independent is None else on_device(independent.head),
        class_ids=on_device(np.searchsorted(every_class, subset.classes)),
        dataset_classes=len(every_class),
        old_is_stored=old.is_stored,
        load_centres=load_centres,
    )


def rows_on(array: Embeddings, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Read `rows` [n] of an array [N, D] onto a device, block by block."""
    placed = torch.empty(len(rows), array.shape[1], dtype=torch.float32, device=device)
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        placed[part] = torch.from_numpy(np.asarray(array[rows[part]], np.float32))
    return placed


def class_centres(
    embeddings: Embeddings, subset: Subset, device: torch.device
) -> NDArray[np.float32]:
    """Return the mean embedding [C, D] of each class of `subset`, of training embeddings [N, D]."""
    head = torch.zeros(0, embeddings.shape[1])
    old = OldSystem(embeddings.shape[1], head=head, embeddings=embeddings)
    context = make_context(subset.labels, subset, 0, 1.0, old, None, None, device)
    centres: NDArray[np.float32] = context.mean_of_classes().cpu().numpy()
    return centres


def _positions(wanted: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each wanted class in a sorted list, −1 where it is not there."""
    place = {int(label): position for position, label in enumerate(among)}
    return np.array([place.get(int(label), -1) for label in wanted], np.int64)
