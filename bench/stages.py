"""The last stage of a cell: its per-query records, and examples of what flipped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import evaluation, flips, orders, records
from bench.backfill import Curve
from bench.plan import CellSpec, ModelSpec, code_digests
from bench.protocol import Method, View
from bench.seeds import derive
from bench.store import digest, facts, publish
from bench.suite import FLIPS, RECORDS
from bench.training import Training

OLD_CURVE = "old.npz"


class Stages(Training):
    """Makes all that cells describe, each at most once, in one results folder."""

    def records(self, spec: CellSpec) -> Path:
        """Path of a cell's published records."""
        place = self.store.ensure("records", spec.key, lambda folder: self._evaluate(spec, folder))
        for name, target in spec.cell.published(self.store.results).items():
            publish(place / name, target)
        return spec.cell.record_path(self.store.results)

    def _evaluate(self, spec: CellSpec, folder: Path) -> dict[str, Any]:
        """Walk the backfill of one cell and write its per-query records."""
        embedded = self._embedded(spec.old, spec.new)
        self.report("search", 0, 1)
        method, data = self.method(spec.new), self.data(spec.new)
        deployed = evaluation.deploy(method, embedded)
        backfills = self._orders(spec, method, embedded)
        shares = np.linspace(0, 1, spec.shares)
        old = self._old_curve(spec, embedded)
        rows = evaluation.rows(method, old, deployed, data, backfills, shares)
        if spec.first is not None:
            before = self._embedded(spec.first, spec.old)
            on_first = evaluation.on_first(self.method(spec.old), method, before, embedded, data)
            rows = pd.concat([rows, on_first], ignore_index=True)
        records.write(folder / RECORDS, rows, self._note(spec, embedded))
        name, backfill = next(iter(backfills.items()))
        found = flips.collect(method, embedded, deployed, data, rows, name, backfill)
        flips.write(folder / FLIPS, found)
        return {}

    def _embedded(self, old: ModelSpec, new: ModelSpec) -> evaluation.Embedded:
        """Load queries and gallery under two models."""
        return evaluation.Embedded(
            **{
                f"{split}_{age}": self.load(model, split)
                for split in ("query", "gallery")
                for age, model in (("old", old), ("new", new))
            }
        )

    def _old_curve(self, spec: CellSpec, embedded: evaluation.Embedded) -> Curve:
        """Evaluate the old system, once for all methods that replace it."""

        def make(folder: Path) -> dict[str, Any]:
            curve = evaluation.search_old(embedded, self.data(spec.old))
            np.savez(folder / OLD_CURVE, ap=curve.ap, success=curve.success)
            return {}

        place = self.store.ensure("old_search", spec.old_search_key, make)
        with np.load(place / OLD_CURVE, allow_pickle=False) as found:
            return Curve(np.ones(1), found["ap"], found["success"], records.SUCCESS_AT)

    def _orders(
        self, spec: CellSpec, method: Method, embedded: evaluation.Embedded
    ) -> dict[str, NDArray[np.int64]]:
        """Order the gallery for backfilling by what a deployed system knows beforehand."""
        subset, data = self.subset(spec.old), self.data(spec.new)
        stored = View(old=self.on_device(embedded.gallery_old))
        uncertainty = method.uncertainty(stored)
        knowledge = orders.Knowledge(
            size=len(embedded.gallery_old),
            gallery_old=embedded.gallery_old,
            old_head=self.weights(spec.old.deployed)["head"].numpy(),
            new_head=self.weights(spec.new.deployed)["head"].numpy(),
            train_old=self.load(spec.old, "train")[subset.rows],
            train_labels=subset.labels,
            method_uncertainty=None if uncertainty is None else uncertainty.cpu().numpy(),
            relevance=data.relevance,
            temperature=spec.new.recipe.temperature,
        )
        seed = derive("order", spec.cell.seed)
        return {
            name: orders.order(name, knowledge, np.random.default_rng(seed)) for name in spec.orders
        }

    def _note(self, spec: CellSpec, embedded: evaluation.Embedded) -> dict[str, Any]:
        """Say what a cell's rows have in common: settings, speed, losses, origin."""
        trained = facts(self.model(spec.new.deployed))
        embedding, here = facts(self.embeddings(spec.new, "gallery")), self.provenance()
        embed_rate, precision = embedding["rates"]["embed"], spec.new.recipe.precision
        return {
            **asdict(spec.cell),
            "key": spec.key,
            "metric": self.data(spec.new).metric,
            "dataset_revision": spec.new.dataset.revision,
            "dataset_key": digest(spec.new.dataset.key),
            "dataset_counts": self.data(spec.new).counts,
            "settings": {
                "shares": spec.shares,
                "orders": list(spec.orders),
                "dataset": json.loads(spec.new.dataset.options),
                "split": spec.new.dataset.split,
                "method": json.loads(spec.new.options),
                **{
                    f"{age}_{part}": getattr(model, part).model_dump(mode="json")
                    for age, model in spec.generations.items()
                    for part in ("side", "recipe")
                },
            },
            "losses": trained["losses"],
            "rates": {
                **{f"{stage}_images_per_s": rate for stage, rate in trained["rates"].items()},
                "embed_images_per_s": embed_rate,
                **evaluation.rates(embedded.query_new, embedded.gallery_new, embed_rate),
            },
            "measured_on": {
                "training": _machine(trained["provenance"], precision),
                "embedding": _machine(embedding["provenance"], precision),
                "search": _machine({**here, "device": "cpu"}, "float32"),
            },
            "provenance": here,
            "trained": {
                age: facts(self.model(model.deployed))["provenance"]
                for age, model in spec.generations.items()
            },
            "code": code_digests(spec.cell.method),
        }


def _machine(provenance: dict[str, Any], precision: str) -> dict[str, Any]:
    """Say on what and how a rate was measured: with cached stages, perhaps not here."""
    parts = ("device", "processor", "devices", "threads")
    return {**{part: provenance[part] for part in parts}, "precision": precision}
