"""The two systems of an upgrade that was made elsewhere, as embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.embedding_files import EmbeddingTable, check_same_space
from bench.relevance import Relevance
from bench.upgrade.bounds import Sampling


@dataclass(frozen=True)
class Upgrade:
    """Embeddings of the same queries and gallery under the new model and, if at hand, the old.

    `relevance` None: only agreement can be told. `pairs` are old and new embeddings to fit bridges
    on, `fitted_queries` of them queries; `dropped` [Q] is the gallery row that is a query itself
    and left out of its answers, −1 for none. Raises BenchError, naming both files, where those of
    one model do not fit.
    """

    queries_new: EmbeddingTable
    gallery_new: EmbeddingTable
    gallery_old: EmbeddingTable
    pairs: tuple[NDArray[Any], NDArray[Any]]
    queries_old: EmbeddingTable | None = None
    relevance: Relevance | None = None
    sampling: Sampling | None = None
    slices: tuple[str, ...] | None = None
    pairs_from_gallery: bool = True
    dropped: NDArray[np.int64] | None = None
    fitted_queries: int = 0

    def __post_init__(self) -> None:
        check_same_space(self.queries_new, self.gallery_new)
        if self.queries_old is not None:
            check_same_space(self.queries_old, self.gallery_old)
