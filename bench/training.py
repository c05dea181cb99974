"""The stages before any search: data, a trained model, its embeddings, its method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bench import registry
from bench.batches import Subset, choose
from bench.checkpoint import DEFAULT_SECONDS, FOLDER, Checkpoint
from bench.embed import embed, load
from bench.features import with_features
from bench.models import Embedder, make_embedder, make_head
from bench.plan import ModelSpec
from bench.protocol import Bank, Context, Method, RetrievalData
from bench.provenance import device_name, environment
from bench.ranks import Report, launch
from bench.remote import Mirror
from bench.seeds import derive
from bench.store import Store, digest
from bench.train import Task, train
from bench.validation import carve

Embeddings = NDArray[np.float32]
Work = Callable[..., dict[str, Any]]
WEIGHTS, EMBEDDINGS, CENTRES = "weights.safetensors", "embeddings.npy", "centres.npy"


def quiet(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


class Training:
    """Makes the models that specs describe, each at most once, in one results folder.

    `report(stage, done, total)` hears how far the stage in hand is; a training keeps its state
    every `checkpoint_seconds`. Models are trained and images embedded on `devices` at once, in a
    process for each; `readers` more processes decode images ahead. A `fabric` is that of a process
    which is one of several.
    """

    def __init__(
        self,
        store: Store,
        report: Report = quiet,
        accelerator: str = "auto",
        checkpoint_seconds: float = DEFAULT_SECONDS,
        devices: int = 1,
        readers: int = 0,
        fabric: Fabric | None = None,
    ) -> None:
        self.store, self.report = store, report
        self.accelerator, self.devices, self.readers = accelerator, devices, readers
        self.checkpoint_seconds = checkpoint_seconds
        self.fabric = fabric or Fabric(accelerator=accelerator, devices=1)
        self._data: dict[tuple[Any, ...], RetrievalData] = {}
        self._subsets: dict[str, Subset] = {}

    def data(self, spec: ModelSpec, size: int | None = None) -> RetrievalData:
        """Load the dataset with what a model sees of an image, once per process.

        Images have `size` pixels along each side, by default those that the model sees.
        """
        features, size = spec.recipe.features, size or spec.recipe.image_size
        place = (spec.dataset, size, features)
        if place not in self._data:
            options = json.loads(spec.dataset.options)
            adapter = registry.make_dataset(spec.dataset.name, options)
            cache_folder = self.store.root / "data" / spec.dataset.name
            data = adapter.load(size, cache_folder)
            data = data if features is None else with_features(data, features)
            self._data[place] = data if spec.dataset.split == "test" else carve(data)
        return self._data[place]

    def model(self, spec: ModelSpec) -> Path:
        """Folder of a trained model: its weights, those of its method, and facts."""
        place = self.store.ensure("models", spec.key, lambda folder: self._train(spec, folder))
        self._checkpoint(spec).remove()
        return place

    def embeddings(self, spec: ModelSpec, split: str) -> Path:
        """Folder of the embeddings of `train`, `query` or `gallery` images under a model."""
        data = self.data(spec)
        if split == "query" and data.query is data.gallery:
            split = "gallery"
        return self.store.ensure(
            "embeddings",
            spec.embeddings_key(split),
            lambda folder: self._embed(spec, split, folder),
        )

    def method(self, spec: ModelSpec) -> Method:
        """Load a method ready for search: trained with its model, and fitted where it fits."""
        context = self.context(spec)
        method = self.prepared(spec, context)
        if spec.trains:
            method.load_state_dict(self.weights(spec, "method."))
        if type(method).fit is not Method.fit:
            place = self.store.ensure(
                "fitted", spec.key, lambda folder: self._fit(spec, method, context, folder)
            )
            method.load_state_dict(load_file(place / WEIGHTS))
        return method.eval().requires_grad_(False)

    def _fit(
        self, spec: ModelSpec, method: Method, context: Context, folder: Path
    ) -> dict[str, Any]:
        """Fit a method on the training images' embeddings under the old and the new model."""
        new = self.load(spec, "train")[self.subset(spec).rows]
        head = self.weights(spec.deployed)["head"]
        torch.manual_seed(derive("fit", spec.seed))
        bank = Bank(
            context.old_embeddings, self.on_device(new), context.labels, self.on_device(head)
        )
        method.fit(bank)
        save(method, folder)
        return {}

    def training_images(self, spec: ModelSpec) -> int:
        """Count the images that a model is trained on in each epoch."""
        return len(self.subset(spec))

    # ------------------------------------------------------------------------------ training

    def subset(self, spec: ModelSpec) -> Subset:
        """Choose the images that a model learns from, once per process."""
        if spec.key not in self._subsets:
            labels = self.data(spec).train.labels
            without = choose(labels, spec.without, spec.seed) if spec.without is not None else None
            self._subsets[spec.key] = choose(labels, spec.side, spec.seed, without)
        return self._subsets[spec.key]

    def _checkpoint(self, spec: ModelSpec) -> Checkpoint:
        store, path = self.store, self.store.root / FOLDER / f"{spec.key}.pt"
        seconds = self.checkpoint_seconds
        return Checkpoint(path, spec.key, seconds, store.note, store.mirror)

    def _on_devices(self, work: Work, spec: ModelSpec, *arguments: Any) -> dict[str, Any]:
        """Do a stage in a process per device; with one device, in this very process.

        What the stage needs has to be there already: processes would wait for each other.
        """
        if self.fabric.world_size > 1:
            raise RuntimeError(f"one of several processes would make {spec.key} alone")
        if self.devices == 1:
            return work(self, spec, *arguments)
        settings = {"checkpoint_seconds": self.checkpoint_seconds, "readers": self.readers}
        facts, notes = launch(
            *(self.devices, self.accelerator, self.report),
            *(_on_rank, self.store.results, self.store.mirror, settings, work, spec, *arguments),
        )
        self.store.notes.extend(notes)
        return dict(facts)

    def _train(self, spec: ModelSpec, folder: Path) -> dict[str, Any]:
        self.context(spec)
        self._checkpoint(spec).bring()
        return self._on_devices(Training._train_here, spec, folder)

    def _train_here(self, spec: ModelSpec, folder: Path) -> dict[str, Any]:
        subset, context = self.subset(spec), self.context(spec)
        task = Task(
            make_embedder(spec.recipe, derive("embedder", spec.seed)),
            make_head(context.class_count, spec.recipe.width, derive("head", spec.seed)),
            self.prepared(spec, context),
        )
        torch.manual_seed(derive("training", spec.seed))
        history = train(
            self.fabric,
            task,
            self.data(spec, spec.recipe.crop_from).train,
            subset,
            context,
            None if spec.old is None or context.old_is_stored else self.frozen(spec.old),
            spec.recipe,
            spec.seed,
            lambda done, total: self.report("train", done, total),
            self._checkpoint(spec),
            self.readers,
        )
        if self.fabric.is_global_zero:
            save(task, folder)
        return {
            "classes": len(subset.classes),
            "images": len(subset),
            "rates": history.rates,
            "losses": history.terms,
            "provenance": self.provenance(),
        }

    def context(self, spec: ModelSpec) -> Context:
        """Say what the method of a model may know before training."""
        subset, tensor = self.subset(spec), self.on_device
        every_class = np.unique(self.data(spec).train.labels)
        old_classes, old_width, old_head = np.empty(0, np.int64), 0, torch.zeros(0, 0)
        old_embeddings = np.zeros((len(subset), 0), np.float32)
        if spec.old is not None:
            old_classes, old_width = self.subset(spec.old).classes, spec.old.recipe.width
            old_head = self.weights(spec.old.deployed)["head"]
            old_embeddings = self.load(spec.old, "train")[subset.rows]
        independent: dict[str, Any] = {}
        if spec.independent is not None:
            embeddings = self.load(spec.independent, "train")[subset.rows]
            independent["independent_embeddings"] = tensor(embeddings)
            independent["independent_head"] = tensor(self.weights(spec.independent)["head"])
        context = Context(
            old_width=old_width,
            new_width=spec.recipe.width,
            class_count=len(subset.classes),
            temperature=spec.recipe.temperature,
            old_head=tensor(old_head),
            old_row=tensor(_positions(subset.classes, old_classes)),
            labels=tensor(subset.labels),
            old_embeddings=tensor(old_embeddings),
            class_ids=tensor(np.searchsorted(every_class, subset.classes)),
            dataset_classes=len(every_class),
            old_is_stored=spec.old is not None and has_features(spec, spec.old),
            **independent,
        )
        return replace(context, kept_centres=lambda: self._centres(spec, context))

    def _centres(self, spec: ModelSpec, context: Context) -> torch.Tensor:
        """Load the old class centres, computed once for all methods of an upgrade."""

        def make(folder: Path) -> dict[str, Any]:
            np.save(folder / CENTRES, context.mean_of_classes().cpu().numpy())
            return {}

        subset, of = self.subset(spec), hashlib.sha256()
        for part in (subset.rows, subset.labels):
            of.update(part.tobytes())
        old = "" if spec.old is None else spec.old.embeddings_key("train")
        place = self.store.ensure("centres", digest([old, of.hexdigest()]), make)
        return self.on_device(np.load(place / CENTRES, allow_pickle=False))

    def prepared(self, spec: ModelSpec, context: Context) -> Method:
        """Make a method whose initial state depends on the seed alone."""
        method = registry.make_method(spec.method, json.loads(spec.options))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("method", spec.seed))
            method.prepare(context)
        return method.to(self.fabric.device)

    def weights(self, spec: ModelSpec, prefix: str = "") -> dict[str, torch.Tensor]:
        """Load the trained tensors whose names begin with `prefix`, which is cut off."""
        weights = load_file(self.model(spec) / WEIGHTS)
        return {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }

    def frozen(self, spec: ModelSpec) -> Embedder:
        """Load a trained embedder, in evaluation mode and without gradient."""
        embedder = make_embedder(spec.recipe.from_scratch(), 0)
        embedder.load_state_dict(self.weights(spec.deployed, "embedder."))
        return embedder.eval().requires_grad_(False).to(self.fabric.device)

    # ---------------------------------------------------------------------------- embeddings

    def _embed(self, spec: ModelSpec, split: str, folder: Path) -> dict[str, Any]:
        self.model(spec.deployed)
        self.report("embed", 0, 1)
        return self._on_devices(Training._embed_here, spec, split, folder)

    def _embed_here(self, spec: ModelSpec, split: str, folder: Path) -> dict[str, Any]:
        images, path = getattr(self.data(spec), split), folder / EMBEDDINGS
        embedder, width = self.frozen(spec), spec.recipe.width
        rate = embed(self.fabric, embedder, images, width, path, self.readers)
        return {"rates": {"embed": rate}, "provenance": self.provenance()}

    def load(self, spec: ModelSpec, split: str) -> Embeddings:
        return load(self.embeddings(spec, split) / EMBEDDINGS)

    def on_device(self, array: Any) -> torch.Tensor:
        return torch.as_tensor(np.array(array)).to(self.fabric.device)

    def provenance(self) -> dict[str, Any]:
        """Say with which code, packages and hardware a result is made here and now."""
        return {
            **environment(),
            "device": device_name(self.fabric.device),
            "threads": torch.get_num_threads(),
            "devices": self.fabric.world_size,
        }


def _on_rank(
    fabric: Fabric,
    report: Report,
    results: Path,
    mirror: Mirror | None,
    settings: dict[str, Any],
    work: Work,
    *arguments: Any,
) -> tuple[dict[str, Any], list[str]]:
    """Do this process's part of a stage; return its facts, and what was found damaged."""
    training = Training(Store(results, mirror, watched=True), report, fabric=fabric, **settings)
    return work(training, *arguments), training.store.notes


def save(module: torch.nn.Module, folder: Path) -> None:
    """Keep a module's state; safetensors wants plain layout, whatever the module computes in."""
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)


def has_features(*models: ModelSpec) -> bool:
    """Tell whether one of the models takes fixed vectors in place of pixels."""
    return any(model.recipe.features is not None for model in models)


def _positions(wanted: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each wanted class in a sorted list, −1 where it is not there."""
    place = {int(label): position for position, label in enumerate(among)}
    return np.array([place.get(int(label), -1) for label in wanted], np.int64)
