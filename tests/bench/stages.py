"""Stages made on demand, for tests that look at one of them."""

from __future__ import annotations

import numpy as np
import torch

from bench.evaluation.scores import normalise
from bench.pipeline.finished import WEIGHTS
from bench.pipeline.make import Maker
from bench.pipeline.specs import EmbeddingsSpec, FittedSpec
from bench.protocol import StoredEmbeddings


class Stages:
    """Makes what a test asks for, with all that it needs, and reads it."""

    def __init__(self, store, *arguments, **options):
        self.maker = Maker(store, *arguments, **options)
        self.finished, self.store = self.maker.finished, store
        self.records, self.data = self.maker.records, self.finished.data
        self.subset, self.prepared = self.finished.subset, self.finished.prepared

    def model(self, spec):
        return self.maker.make(spec.deployed)

    def embeddings(self, spec, split):
        return self.maker.make(EmbeddingsSpec(spec.deployed, split))

    def load(self, spec, split):
        self.embeddings(spec, split)
        return self.finished.embeddings(spec, split)

    def weights(self, spec, prefix=""):
        self.model(spec)
        return self.finished.weights(spec.deployed, prefix)

    def frozen(self, spec):
        self.model(spec)
        return self.finished.embedder(spec)

    def context(self, spec):
        for need in spec.needs():
            self.maker.make(need)
        return self.finished.context(spec)

    def method(self, spec):
        self.context(spec)
        self.model(spec)
        if spec.fits:
            self.maker.make(FittedSpec(spec))
        return self.finished.method(spec)

    def naive_map(self, spec, state):
        """mAP of a gallery all of which is in one state, query by query and without the harness."""
        found, data = self.finished.embedded(spec.old, spec.new), self.data(spec.new)
        method = self.method(spec.new)
        ages = {name: torch.tensor(np.array(getattr(found, name))) for name in vars(found)}
        stored = {state: ages[f"gallery_{state}"]}
        with torch.inference_mode():
            view = StoredEmbeddings(old=ages["query_old"], new=ages["query_new"])
            query = method.query(view, state)
            gallery = method.gallery(StoredEmbeddings(**stored), state)
        # Models of one epoch rank by the last digits of scores: unit rows are the harness's own.
        query, gallery = (
            torch.from_numpy(normalise(each.numpy())).double() for each in (query, gallery)
        )
        precisions = []
        for scores, relevant, junk in zip(
            query @ gallery.T, data.relevance.relevant, data.relevance.junk, strict=True
        ):
            order = [
                i for i in scores.argsort(descending=True, stable=True).tolist() if i not in junk
            ]
            places = [place for place, i in enumerate(order, start=1) if i in relevant]
            precisions.append(np.mean([n / place for n, place in enumerate(places, start=1)]))
        return np.mean(precisions)


__all__ = ["WEIGHTS", "Stages"]
