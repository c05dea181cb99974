"""CoReS: compatible by stationarity, old and new model trained to one fixed simplex classifier.

Biondi et al., "CoReS: Compatible Representations via Stationarity", TPAMI 2023, and its public
code: cross-entropy against the vertices of a d-simplex that are allotted to all classes, present
and future, before the first model is trained; no term compares old with new. The old model must be
trained so as well, hence this method has an old system of its own, and only its gain over that one
compares with other methods. Logits are the recipe's cosine logits; the code leaves embeddings
un-normalised in training.
"""

from __future__ import annotations

from methods._simplex import OnSimplex


class CoReS(OnSimplex):
    """Classify with a fixed simplex that every version shares; no other term is needed."""
