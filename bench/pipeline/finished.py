"""Finished results as stages read them: datasets, models, embeddings and methods on one device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from bench.data.precomputed import with_precomputed
from bench.data.splits import Subset, choose, validation_split
from bench.evaluation.backfill import Curve
from bench.evaluation.embedded import Embedded
from bench.evaluation.metrics import SUCCESS_AT
from bench.pipeline.specs import (
    CellSpec,
    CentresSpec,
    EmbeddingsSpec,
    FittedSpec,
    ModelSpec,
    OldSearchSpec,
    Spec,
)
from bench.plugins import registry
from bench.protocol import Context, Method, PairedEmbeddings, RetrievalData
from bench.storage.manifest import stage_metadata
from bench.storage.metadata import EmbeddingsMetadata, FittedMetadata, ModelMetadata, Span
from bench.storage.results import FLIPS, RECORDS, dataset_cache
from bench.storage.store import Store
from bench.training.context import IndependentSystem, OldSystem, make_context, rows_on
from bench.training.embed import load
from bench.training.learner import prepare_method
from bench.training.models import Embedder, make_embedder

# Names of files within the folder of a finished stage.
WEIGHTS, EMBEDDINGS, CENTRES, OLD_CURVE = (
    "weights.safetensors",
    "embeddings.npy",
    "centres.npy",
    "old.npz",
)
FILES: dict[type[Any], tuple[str, ...]] = {
    ModelSpec: (WEIGHTS,),
    EmbeddingsSpec: (EMBEDDINGS,),
    CentresSpec: (CENTRES,),
    FittedSpec: (WEIGHTS,),
    OldSearchSpec: (OLD_CURVE,),
    CellSpec: (RECORDS, FLIPS),
}


class Finished:
    """Reads what a results folder holds already; it makes nothing.

    A dataset is loaded once and stays in memory.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store, self.device = store, device
        self._data: dict[tuple[Any, ...], RetrievalData] = {}
        self._subsets: dict[str, Subset] = {}

    def folder(self, spec: Spec) -> Path:
        """Folder of a finished stage."""
        return self.store.path(spec.stage, spec.key)

    # ------------------------------------------------------------------------------------- data

    def data(self, spec: ModelSpec, size: int | None = None) -> RetrievalData:
        """Load the dataset with what a model sees of an image, once per process.

        Images have `size` pixels along each side, by default those that the model sees.
        """
        embeddings, size = spec.recipe.embeddings, size or spec.recipe.image_size
        place = (spec.dataset, size, embeddings)
        if place not in self._data:
            adapter = registry.make_dataset(spec.dataset.name, json.loads(spec.dataset.options))
            data = adapter.load(size, dataset_cache(self.store.results, spec.dataset.name))
            data = data if embeddings is None else with_precomputed(data, embeddings)
            self._data[place] = data if spec.dataset.split == "test" else validation_split(data)
        return self._data[place]

    def subset(self, spec: ModelSpec) -> Subset:
        """Choose the images that a model learns from, once per process."""
        if spec.key not in self._subsets:
            labels = self.data(spec).train.labels
            rounding = spec.recipe.share_rounding
            without = None
            if spec.without is not None:
                without = choose(labels, spec.without, spec.seed, rounding=rounding)
            self._subsets[spec.key] = choose(labels, spec.side, spec.seed, without, rounding)
        return self._subsets[spec.key]

    def distinct(self, spec: Spec) -> Spec:
        """Return the spec that is made in place of another: where queries are the gallery, once."""
        if isinstance(spec, EmbeddingsSpec) and spec.split == "query":
            data = self.data(spec.model)
            if data.query is data.gallery:
                return EmbeddingsSpec(spec.model, "gallery")
        return spec

    # ----------------------------------------------------------------------------------- models

    def weights(self, spec: ModelSpec, prefix: str = "") -> dict[str, Tensor]:
        """Load the trained tensors whose names begin with `prefix`, which is cut off."""
        weights = load_file(self.folder(spec) / WEIGHTS)
        return {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }

    def head(self, spec: ModelSpec) -> Tensor:
        """Load the classifier [C, D] of the deployed model."""
        return self.weights(spec.deployed)["head"]

    def embedder(self, spec: ModelSpec) -> Embedder:
        """Load a trained embedder, in evaluation mode and without gradient."""
        embedder = make_embedder(spec.recipe.from_scratch(), 0)
        embedder.load_state_dict(self.weights(spec.deployed, "embedder."))
        return embedder.eval().requires_grad_(False).to(self.device)

    def embeddings(self, spec: ModelSpec, split: str) -> NDArray[np.float32]:
        """Open the embeddings [N, D] of a split under the deployed model."""
        wanted = self.distinct(EmbeddingsSpec(spec.deployed, split))
        return load(self.folder(wanted) / EMBEDDINGS)

    def embedded(self, old: ModelSpec, new: ModelSpec) -> Embedded:
        """Open queries and gallery under two models."""
        return Embedded(
            **{
                f"{split}_{age}": self.embeddings(model, split)
                for split in ("query", "gallery")
                for age, model in (("old", old), ("new", new))
            }
        )

    def old_curve(self, spec: ModelSpec) -> Curve:
        """Load what the old system answered."""
        path = self.folder(OldSearchSpec(spec)) / OLD_CURVE
        with np.load(path, allow_pickle=False) as found:
            return Curve(np.ones(1), found["ap"], found["success"], SUCCESS_AT)

    # ---------------------------------------------------------------------------------- methods

    def context(self, spec: ModelSpec) -> Context:
        """Return what the method of a model may know before training."""
        return make_context(
            self.data(spec).train.labels,
            self.subset(spec),
            spec.recipe.width,
            spec.recipe.temperature,
            OldSystem() if spec.old is None else self._old_system(spec, spec.old),
            None if spec.independent is None else self._independent_system(spec.independent),
            self._centres(spec),
            self.device,
        )

    def _old_system(self, spec: ModelSpec, old: ModelSpec) -> OldSystem:
        return OldSystem(
            old.recipe.width,
            self.subset(old).classes,
            self.head(old),
            self.embeddings(old, "train"),
            is_stored=uses_precomputed(spec, old),
        )

    def _independent_system(self, spec: ModelSpec) -> IndependentSystem:
        return IndependentSystem(self.head(spec), self.embeddings(spec, "train"))

    def _centres(self, spec: ModelSpec) -> Callable[[], Tensor] | None:
        if spec.old is None:
            return None
        path = self.folder(CentresSpec(spec)) / CENTRES
        return lambda: torch.from_numpy(np.load(path, allow_pickle=False)).to(self.device)

    def prepared(self, spec: ModelSpec, context: Context) -> Method:
        """Make a method as it is before training."""
        method = registry.make_method(spec.method, json.loads(spec.options))
        return prepare_method(method, context, spec.seed)

    def trained(self, spec: ModelSpec, context: Context) -> Method:
        """Load a method as it is after training, where it trains, and before it is fitted."""
        method = self.prepared(spec, context)
        if spec.trains:
            method.load_state_dict(self.weights(spec, "method."))
        return method

    def method(self, spec: ModelSpec) -> Method:
        """Load a method ready for search: trained with its model, and fitted where it fits."""
        method = self.trained(spec, self.context(spec))
        if spec.fits:
            method.load_state_dict(load_file(self.folder(FittedSpec(spec)) / WEIGHTS))
        return method.eval().requires_grad_(False)

    def pairs(self, spec: ModelSpec, context: Context) -> PairedEmbeddings:
        """Return the paired embeddings of the training images on which a method is fitted."""
        return PairedEmbeddings(
            context.old_embeddings,
            rows_on(self.embeddings(spec, "train"), self.subset(spec).rows, self.device),
            context.labels,
            self.head(spec).to(self.device),
        )

    # --------------------------------------------------------------------------------- metadata

    def model_metadata(self, spec: ModelSpec) -> ModelMetadata:
        """Read the metadata of a trained model."""
        return ModelMetadata.model_validate(stage_metadata(self.folder(spec)))

    def fitted_metadata(self, spec: ModelSpec) -> FittedMetadata:
        """Read the metadata of a fitted method."""
        return FittedMetadata.model_validate(stage_metadata(self.folder(FittedSpec(spec))))

    def embeddings_metadata(self, spec: EmbeddingsSpec) -> EmbeddingsMetadata:
        """Read the metadata of embeddings."""
        return EmbeddingsMetadata.model_validate(stage_metadata(self.folder(self.distinct(spec))))

    def span(self, spec: Spec) -> Span | None:
        """Return when a finished result was worked on; None where earlier code did not say."""
        found = stage_metadata(self.folder(spec)).get("span")
        return None if found is None else Span.model_validate(found)


def uses_precomputed(*models: ModelSpec) -> bool:
    """Return whether one of the models takes precomputed embeddings in place of pixels."""
    return any(model.recipe.embeddings is not None for model in models)
