"""The stages: functions that fill a folder with one result, from results that are finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file

from bench.evaluation import cell, flips, orders, records
from bench.evaluation.embedded import Embedded
from bench.evaluation.serving import serving
from bench.evaluation.throughput import rates
from bench.pipeline.finished import (
    CENTRES,
    EMBEDDINGS,
    OLD_CURVE,
    WEIGHTS,
    Finished,
    uses_precomputed,
)
from bench.pipeline.specs import (
    CellSpec,
    CentresSpec,
    EmbeddingsSpec,
    FittedSpec,
    ModelSpec,
    OldSearchSpec,
    Spec,
)
from bench.protocol import Method
from bench.storage.digest import digest
from bench.storage.metadata import (
    EmbeddingsMetadata,
    FittedMetadata,
    Machine,
    ModelMetadata,
    Provenance,
    RunConfiguration,
    RunMetadata,
    ServingCosts,
    Span,
    StageMetadata,
)
from bench.storage.provenance import device_name, environment
from bench.storage.results import FLIPS, RECORDS, checkpoint_path
from bench.training.checkpoint import Checkpoint
from bench.training.context import class_centres
from bench.training.distributed import Report
from bench.training.embed import embed
from bench.training.learner import fit_method, make_learner
from bench.training.loop import train


@dataclass(frozen=True)
class Means:
    """With what a stage works in this process: its device, readers, checkpoints and reports.

    `report(stage, done, total)` is told how far the stage in hand is.
    """

    fabric: Fabric
    report: Report
    checkpoint_seconds: float
    readers: int


Stage = Callable[[Any, Finished, Means, Path], StageMetadata]


def train_model(spec: ModelSpec, finished: Finished, means: Means, folder: Path) -> ModelMetadata:
    """Train a model and its method; write their weights."""
    subset, context = finished.subset(spec), finished.context(spec)
    sees_old = spec.old is not None and not uses_precomputed(spec, spec.old)
    learner = make_learner(
        spec.recipe, spec.seed, finished.prepared(spec, context), context.class_count
    )
    history = train(
        means.fabric,
        learner,
        finished.data(spec, spec.recipe.read_size).train,
        subset,
        context,
        finished.embedder(spec.old) if sees_old and spec.old else None,
        spec.recipe,
        spec.seed,
        lambda done, total: means.report("train", done, total),
        checkpoint_of(spec, finished, means),
        means.readers,
    )
    if means.fabric.is_global_zero:
        _save(learner, folder)
    return ModelMetadata(
        code=spec.code,
        classes=len(subset.classes),
        images=len(subset),
        rates=history.rates,
        losses=history.terms,
        provenance=_provenance(means.fabric),
    )


def embed_split(
    spec: EmbeddingsSpec, finished: Finished, means: Means, folder: Path
) -> EmbeddingsMetadata:
    """Embed the images of one split; write their embeddings."""
    means.report("embed", 0, 1)
    images = getattr(finished.data(spec.model), spec.split)
    embedder, width = finished.embedder(spec.model), spec.model.recipe.width
    rate = embed(means.fabric, embedder, images, width, folder / EMBEDDINGS, means.readers)
    return EmbeddingsMetadata(
        code=spec.code, rates={"embed": rate}, provenance=_provenance(means.fabric)
    )


def average_classes(
    spec: CentresSpec, finished: Finished, means: Means, folder: Path
) -> StageMetadata:
    """Write the mean old embedding of each class that a model is trained on."""
    old = finished.embeddings(spec.of.model, "train")
    np.save(folder / CENTRES, class_centres(old, finished.subset(spec.model), finished.device))
    return StageMetadata(code=spec.code)


def fit(spec: FittedSpec, finished: Finished, means: Means, folder: Path) -> FittedMetadata:
    """Fit a method on the training images under the old and the new model; write its state."""
    context = finished.context(spec.model)
    method, pairs = finished.trained(spec.model, context), finished.pairs(spec.model, context)
    started = time.perf_counter()
    fit_method(method, pairs, spec.model.seed)
    _save(method, folder)  # which waits for the device
    return FittedMetadata(
        code=spec.code,
        seconds=time.perf_counter() - started,
        pairs=len(pairs.old),
        provenance=_provenance(means.fabric),
    )


def search_old(
    spec: OldSearchSpec, finished: Finished, means: Means, folder: Path
) -> StageMetadata:
    """Evaluate the old system, once for all methods that replace it."""
    embedded = finished.embedded(spec.old, spec.old)
    curve = cell.search_old(embedded, finished.data(spec.old))
    np.savez(folder / OLD_CURVE, ap=curve.ap, success=curve.success)
    return StageMetadata(code=spec.code)


def evaluate(spec: CellSpec, finished: Finished, means: Means, folder: Path) -> StageMetadata:
    """Walk the backfill of one run; write its per-query records and examples of flips."""
    started = time.time()
    means.report("search", 0, 1)
    embedded = finished.embedded(spec.old, spec.new)
    method, data = finished.method(spec.new), finished.data(spec.new)
    rows, found = cell.evaluate(
        method,
        embedded,
        finished.old_curve(spec.old),
        data,
        _order_inputs(spec, finished),
        spec.orders,
        spec.shares,
        spec.cell.seed,
    )
    if spec.first is not None:
        before = finished.embedded(spec.first, spec.old)
        on_first = cell.on_first(finished.method(spec.old), method, before, embedded, data)
        rows = pd.concat([rows, on_first], ignore_index=True)
    note = _run_metadata(spec, finished, means, started)
    costs = _costs(spec, finished, method, embedded)
    records.write(folder / RECORDS, rows, note.model_copy(update={"costs": costs}))
    flips.write(folder / FLIPS, found, spec.key)
    return StageMetadata(code=spec.code)


def stage_of(spec: Spec) -> Stage:
    """Return the function that makes what a spec describes."""
    return _STAGES[type(spec)]


_STAGES: dict[type, Stage] = {
    ModelSpec: train_model,
    EmbeddingsSpec: embed_split,
    CentresSpec: average_classes,
    FittedSpec: fit,
    OldSearchSpec: search_old,
    CellSpec: evaluate,
}
# What a process per device works on together.
DISTRIBUTED = (ModelSpec, EmbeddingsSpec)


def checkpoint_of(spec: ModelSpec, finished: Finished, means: Means) -> Checkpoint:
    """Return the checkpoint of a training, which may not exist yet."""
    store = finished.store
    path = checkpoint_path(store.results, spec.key)
    return Checkpoint(path, spec.key, means.checkpoint_seconds, store.note, store.mirror)


def _order_inputs(spec: CellSpec, finished: Finished) -> orders.OrderInputs:
    """Collect what a deployed system knows before it backfills."""
    subset, gallery_old = finished.subset(spec.old), finished.embeddings(spec.old, "gallery")
    return orders.OrderInputs(
        size=len(gallery_old),
        gallery_old=gallery_old,
        old_head=finished.head(spec.old).numpy(),
        new_head=finished.head(spec.new).numpy(),
        train_old=finished.embeddings(spec.old, "train")[subset.rows],
        train_labels=subset.labels,
        temperature=spec.new.recipe.temperature,
    )


def _costs(spec: CellSpec, finished: Finished, method: Method, embedded: Embedded) -> ServingCosts:
    """Return what serving costs while the gallery is backfilled, measured and reckoned."""
    shares = np.linspace(0, 1, spec.shares).tolist()
    found = serving(method, embedded, shares)
    rates = {
        age: finished.embeddings_metadata(EmbeddingsSpec(model.deployed, "gallery")).rates["embed"]
        for age, model in (("old", spec.old), ("new", spec.new))
    }
    total = len(embedded.gallery_old)
    bought = [min(method.purchases, total - int(share * total + 0.5)) for share in shares]
    fitted = finished.fitted_metadata(spec.new) if spec.new.fits else None
    return ServingCosts(
        shares=shares,
        encoders=[list(encoders) for encoders in found.encoders],
        searched=found.searched,
        searches=found.searches,
        purchases=bought,
        encoder_ms={age: 1e3 / rate for age, rate in rates.items()},
        search_ms=found.search_ms,
        bytes_per_item=found.bytes_per_item,
        items=found.items,
        fit_seconds=fitted.seconds if fitted else 0.0,
        fit_pairs=fitted.pairs if fitted else 0,
    )


def _run_metadata(spec: CellSpec, finished: Finished, means: Means, started: float) -> RunMetadata:
    """Return what a run's rows have in common: settings, speed, losses, origin."""
    data, here = finished.data(spec.new), _provenance(means.fabric)
    trained = finished.model_metadata(spec.new.deployed)
    embedding = finished.embeddings_metadata(EmbeddingsSpec(spec.new.deployed, "gallery"))
    query, gallery = (finished.embeddings(spec.new, split) for split in ("query", "gallery"))
    precision = spec.new.recipe.precision
    return RunMetadata(
        schema_version=records.SCHEMA_VERSION,
        **asdict(spec.cell),
        key=spec.key,
        metric=data.metric,
        dataset_revision=spec.new.dataset.revision,
        dataset_key=digest(spec.new.dataset.key),
        dataset_counts=data.counts,
        queries_in_gallery=len(set(data.query.ids) & set(data.gallery.ids)),
        settings=_configuration(spec),
        losses=trained.losses,
        rates={
            **{f"{stage}_images_per_s": rate for stage, rate in trained.rates.items()},
            "embed_images_per_s": embedding.rates["embed"],
            **rates(query, gallery, embedding.rates["embed"]),
        },
        measured_on={
            "training": _machine(trained.provenance, precision),
            "embedding": _machine(embedding.provenance, precision),
            "search": _machine(here.model_copy(update={"device": "cpu"}), "float32"),
        },
        provenance=here,
        trained={
            age: finished.model_metadata(model.deployed).provenance
            for age, model in spec.generations.items()
        },
        code={**spec.code, **_remembered(trained)},
        work=_work(spec.new, finished, started),
    )


def _work(new: ModelSpec, finished: Finished, started: float) -> dict[str, Span]:
    """Return when a run's own stages were worked on; its evaluation, from `started`, ends now."""
    gallery, queries = (EmbeddingsSpec(new.deployed, split) for split in ("gallery", "query"))
    own: dict[str, Spec] = {"training": new.deployed, "embedding of the gallery": gallery}
    if finished.distinct(queries) != gallery:
        own["embedding of queries"] = queries
    if new.fits:
        own["fitting"] = FittedSpec(new)
    found = {name: finished.span(spec) for name, spec in own.items()}
    known = {name: span for name, span in found.items() if span is not None}
    return {**known, "evaluation": Span(started=started, ended=time.time())}


def _remembered(trained: ModelMetadata) -> dict[str, str]:
    """Return the digests under which a model was made, as it remembers them, not today's."""
    return {part: value for part, value in trained.code.items() if part != "method"}


def _configuration(spec: CellSpec) -> RunConfiguration:
    return RunConfiguration(
        shares=spec.shares,
        orders=spec.orders,
        dataset=json.loads(spec.new.dataset.options),
        split=spec.new.dataset.split,
        method=json.loads(spec.new.options),
        **{
            f"{age}_{part}": getattr(model, part).model_dump(mode="json")
            for age, model in spec.generations.items()
            for part in ("side", "recipe")
        },
    )


def _machine(provenance: Provenance, precision: str) -> Machine:
    """Return on what and how a rate was measured: with cached stages, perhaps not here."""
    return Machine(
        device=provenance.device,
        processor=provenance.processor,
        devices=provenance.devices,
        threads=provenance.threads,
        precision=precision,
    )


def _provenance(fabric: Fabric) -> Provenance:
    """Return with which code, packages and hardware a result is made here and now."""
    return Provenance(
        **environment(),
        device=device_name(fabric.device),
        threads=torch.get_num_threads(),
        devices=fabric.world_size,
    )


def _save(module: torch.nn.Module, folder: Path) -> None:
    """Keep a module's state; safetensors wants plain layout, whatever the module computes in."""
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
