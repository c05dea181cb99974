"""Queries that share answers: the groups that statistics sample, where a dataset names none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from bench.relevance import Ragged


def sharing_answers(right: Ragged, names: Sequence[str]) -> list[str]:
    """Group the queries that are linked by common right answers.

    `right` lists the answers of each query [Q], `names` [Q] are the queries' own; a group bears the
    name of its first query. A query without an answer is its own group.
    """
    counts = right.counts()
    asking = np.repeat(np.arange(len(right)), counts)
    answers = len(right) + np.unique(right.rows, return_inverse=True)[1]
    size = int(answers.max(initial=len(right) - 1)) + 1
    links = csr_array((np.ones(len(asking), np.int8), (asking, answers)), shape=(size, size))
    component = connected_components(links, directed=False)[1][: len(right)]
    _, first, place = np.unique(component, return_index=True, return_inverse=True)
    return [names[row] for row in first[place]]
