"""Embeddings of queries and gallery under two models, and what a method makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.protocol import Method, StoredEmbeddings

Embeddings = NDArray[np.float32]
Answer = TypeVar("Answer")
ROWS = 1 << 16  # that a method is shown at a time


@dataclass(frozen=True)
class Embedded:
    """Unit embeddings of queries [Q, D] and gallery [N, D] under the old and the new model."""

    query_old: Embeddings
    gallery_old: Embeddings
    query_new: Embeddings
    gallery_new: Embeddings


def deploy(method: Method, embedded: Embedded) -> Embedded:
    """Ask a method what is compared in each state, showing it only what is stored then.

    In the result, `query_old` and `gallery_old` are what meets for items not yet backfilled. What
    a method leaves as it is remains the array that was given.
    """
    old, new = embedded.gallery_old, embedded.gallery_new
    queries = {"old": embedded.query_old, "new": embedded.query_new}
    return Embedded(
        query_old=transformed(method, lambda view: method.query(view, "old"), **queries),
        gallery_old=transformed(method, lambda view: method.gallery(view, "old"), old=old),
        query_new=transformed(method, lambda view: method.query(view, "new"), **queries),
        gallery_new=transformed(method, lambda view: method.gallery(view, "new"), new=new),
    )


def transformed(
    method: Method, ask: Callable[[StoredEmbeddings], Tensor], **stored: Embeddings
) -> NDArray[Any]:
    """Collect what a method makes of stored items; the given array where it leaves them alone."""
    answers = list[Tensor]()
    for part, answer in _asked(method, ask, stored):
        for age, rows in stored.items():
            if answer is part[age]:
                return rows
        answers.append(answer.cpu())
    return torch.cat(answers).numpy()


def uncertainty(method: Method, stored: Embeddings) -> NDArray[Any] | None:
    """Ask a method how uncertain it is of each stored old embedding [N]; None: it cannot tell."""
    answers = list[Tensor]()
    for _, answer in _asked(method, method.uncertainty, {"old": stored}):
        if answer is None:
            return None
        answers.append(answer.cpu())
    return torch.cat(answers).numpy()


def _asked(
    method: Method, ask: Callable[[StoredEmbeddings], Answer], stored: dict[str, Embeddings]
) -> Iterator[tuple[dict[str, Tensor], Answer]]:
    """Show a method block after block of stored items on its device; give block and answer."""
    device, count = device_of(method), len(next(iter(stored.values())))
    for start in range(0, max(count, 1), ROWS):
        part = {
            age: torch.from_numpy(np.array(rows[start : start + ROWS])).to(device)
            for age, rows in stored.items()
        }
        with torch.inference_mode():
            answer = ask(StoredEmbeddings(**part))
        yield part, answer


def device_of(method: Method) -> torch.device:
    """Device on which a method computes: that of its tensors; without any, the CPU.

    Parameters and buffers lie where the context of their training does (`prepare_method`), and so
    does a plain tensor that a method keeps.
    """
    plain = (value for part in method.modules() for value in vars(part).values())
    held = chain(
        method.parameters(), method.buffers(), (each for each in plain if isinstance(each, Tensor))
    )
    first = next(held, None)
    return torch.device("cpu") if first is None else first.device
