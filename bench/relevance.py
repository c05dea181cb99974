"""Which gallery rows answer a query, and which are ignored: the ground truth of retrieval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """One ascending list of gallery rows per query, stored as one flat array and offsets [Q+1]."""

    offsets: Rows
    rows: Rows

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | Rows]) -> Ragged:
        """Pack one list of rows per query; duplicates within a list are merged."""
        unique = [np.unique(np.asarray(rows, dtype=np.int64)) for rows in lists]
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in unique])])
        flat = np.concatenate(unique) if unique else np.empty(0)
        return cls(offsets.astype(np.int64), flat.astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, query: int) -> Rows:
        return self.rows[self.offsets[query] : self.offsets[query + 1]]

    def __iter__(self) -> Iterator[Rows]:
        return (self[query] for query in range(len(self)))

    def counts(self) -> Rows:
        """Number of rows of each query [Q]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Relevance:
    """Relevant and junk gallery rows of every query.

    Junk rows (self-matches, ambiguous items) are taken out of a ranking before ranks are counted.
    A query without a relevant row is skipped by every metric. `gains`, aligned with
    `relevant.rows`, grade them for metrics that tell degrees of relevance apart; None: all are 1.

    Raises ValueError when the two parts differ in length, a row is outside the gallery, a row is
    both relevant and junk for the same query, or gains are not one positive number per row.
    """

    relevant: Ragged
    junk: Ragged
    gallery_size: int
    gains: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if len(self.relevant) != len(self.junk):
            raise ValueError(
                f"relevance lists {len(self.relevant)} queries but junk lists {len(self.junk)}; "
                "give one list of each per query"
            )
        for part in (self.relevant, self.junk):
            if len(part.rows) and not 0 <= part.rows.min() <= part.rows.max() < self.gallery_size:
                raise ValueError(
                    f"relevance names gallery rows {part.rows.min()}..{part.rows.max()}, but the "
                    f"gallery has rows 0..{self.gallery_size - 1}"
                )
        relevant, junk = (
            np.repeat(np.arange(len(part)), part.counts()) * np.int64(self.gallery_size) + part.rows
            for part in (self.relevant, self.junk)
        )
        both = np.intersect1d(relevant, junk)
        if len(both):
            query, row = divmod(int(both[0]), self.gallery_size)
            raise ValueError(f"gallery row {row} is both relevant and junk for query {query}")
        gains = self.gains
        if gains is not None and not (
            gains.shape == self.relevant.rows.shape
            and bool((np.isfinite(gains) & (gains > 0)).all())
        ):
            raise ValueError(
                f"{gains.shape} gains grade {len(self.relevant.rows)} relevant rows; give one "
                "positive number for each"
            )

    @property
    def query_count(self) -> int:
        """Number of queries."""
        return len(self.relevant)

    @classmethod
    def from_lists(
        cls,
        relevant: Iterable[Sequence[int] | Rows],
        junk: Iterable[Sequence[int] | Rows],
        gallery_size: int,
    ) -> Relevance:
        """Build from one list of relevant and one of junk gallery rows per query."""
        return cls(Ragged.from_lists(relevant), Ragged.from_lists(junk), gallery_size)

    @classmethod
    def from_judgements(
        cls, query: Rows, row: Rows, level: Rows, query_count: int, gallery_size: int
    ) -> Relevance:
        """Build from judged pairs [J]: a level above 0 is a gain, 0 not relevant, below 0 junk.

        A pair that is judged twice the same counts once. Raises ValueError for one that is judged
        twice differently.
        """
        order = np.lexsort((level, row, query))
        query, row, level = query[order], row[order], level[order]
        same = (query[1:] == query[:-1]) & (row[1:] == row[:-1])
        differs = np.flatnonzero(same & (level[1:] != level[:-1]))
        if len(differs):
            place = int(differs[0])
            raise ValueError(
                f"gallery row {row[place]} is judged {level[place]} and {level[place + 1]} for "
                f"query {query[place]}"
            )
        first = np.concatenate([[True], ~same]) if len(query) else np.zeros(0, dtype=bool)

        def part(chosen: NDArray[np.bool_]) -> Ragged:
            counts = np.bincount(query[chosen], minlength=query_count)
            return Ragged(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), row[chosen])

        relevant = first & (level > 0)
        gains = level[relevant].astype(np.float64)
        return cls(
            part(relevant),
            part(first & (level < 0)),
            gallery_size,
            gains if len(gains) and bool((gains != 1).any()) else None,
        )

    @classmethod
    def from_labels(
        cls,
        query_labels: NDArray[np.int64],
        gallery_labels: NDArray[np.int64],
        junk: Iterable[Sequence[int] | Rows] | None = None,
    ) -> Relevance:
        """Relevant = same label, less the rows that `junk` lists for the query."""
        by_label = {
            label: np.flatnonzero(gallery_labels == label) for label in np.unique(query_labels)
        }
        ignored = Ragged.from_lists(junk if junk is not None else [[]] * len(query_labels))
        relevant = [
            np.setdiff1d(by_label[label], rows, assume_unique=True)
            for label, rows in zip(query_labels, ignored, strict=True)
        ]
        return cls(Ragged.from_lists(relevant), ignored, len(gallery_labels))

    @classmethod
    def among_themselves(cls, labels: NDArray[np.int64]) -> Relevance:
        """Every item is a query against all the others: same label is relevant, itself is junk."""
        return cls.from_labels(labels, labels, junk=[[row] for row in range(len(labels))])
