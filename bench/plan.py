"""Suite → models and cells with their keys: what is to be made, and what is there already.

The keys decide fairness: split, old model, old embeddings and backfill order are keyed without
the method, so that every method of a (dataset, scenario, seed) meets the same old system.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench import registry
from bench.errors import unknown
from bench.orders import ORDERS
from bench.precision import settled
from bench.provenance import training_packages
from bench.records import REFERENCE_METHOD, SCHEMA_VERSION
from bench.settings import validated
from bench.store import digest, file_digest, source_digest
from bench.suite import Cell, Recipe, Scenario, Side, Suite, cells, load_scenarios

BENCH = Path(__file__).parent
TRAINING_SOURCES = (
    *("training", "train", "models", "batches", "loading", "features", "ranks"),
    *("protocol", "seeds"),
)
EMBEDDING_SOURCES = ("embed", "models")
RECORD_SOURCES = (
    *("backfill", "sweep", "metrics", "orders", "retrieval", "relevance"),
    *("evaluation", "records", "flips", "stages"),
)


def _sources(names: Iterable[str]) -> list[Path]:
    return [BENCH / f"{name}.py" for name in names]


def code_digests(method: str) -> dict[str, str]:
    """Name code and packages of a cell's stages: a table refuses to mix results of two."""
    return {
        "training": source_digest(_sources(TRAINING_SOURCES)),
        "embedding": source_digest(_sources(EMBEDDING_SOURCES)),
        "records": source_digest(_sources(RECORD_SOURCES)),
        "method": source_digest(registry.sources("methods", method)),
        "packages": training_packages(),
    }


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset with its options (canonical JSON), the revision of its content, and its split.

    `content` holds those of the options that decide the content.
    """

    name: str
    options: str
    content: str
    revision: str
    split: str

    @property
    def key(self) -> tuple[str, ...]:
        """What decides the images, wherever they lie."""
        return self.name, self.content, self.revision, self.split


@dataclass(frozen=True)
class ModelSpec:
    """One embedding model: how it is trained, under which method, against which old model.

    `without` is the side whose classes a disjoint side leaves out; `options` is canonical JSON.
    """

    dataset: DatasetSpec
    recipe: Recipe
    side: Side
    seed: int
    method: str
    options: str
    without: Side | None = None
    old: ModelSpec | None = None
    independent: ModelSpec | None = None
    trains: bool = True

    @cached_property
    def key(self) -> str:
        """Name of the trained weights: a hash of all that decides them."""
        return digest(
            {
                "dataset": self.dataset.key,
                "recipe": self.recipe.model_dump(mode="json", exclude={"weights", "features"}),
                "weights": self.recipe.weights and file_digest(self.recipe.weights),
                "features": self.recipe.features and vectors_digest(self.recipe.features),
                "side": self.side.model_dump(mode="json"),
                "without": self.without and self.without.model_dump(mode="json"),
                "seed": self.seed,
                "method": [self.method, self.options],
                "old": self.old and self.old.key,
                "independent": self.independent and self.independent.key,
                "packages": training_packages(),
                "sources": source_digest(
                    [*_sources(TRAINING_SOURCES), *registry.sources("methods", self.method)]
                ),
            }
        )

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def deployed(self) -> ModelSpec:
        """The model that embeds images: this one, or the independent one for untrained methods."""
        if self.trains or self.independent is None:
            return self
        return self.independent

    def embeddings_key(self, split: str) -> str:
        """Name of the embeddings of `train`, `query` or `gallery` images under this model."""
        return digest([self.deployed.key, split, source_digest(_sources(EMBEDDING_SOURCES))])

    def needs(self) -> list[ModelSpec]:
        """Models that must exist before this one can be trained."""
        return [model for model in (self.old, self.independent) if model is not None]


@dataclass(frozen=True)
class CellSpec:
    """A cell with the old and the new model that it compares, and how it walks the backfill.

    In a chain of upgrades, `first` is the model that the old one has replaced.
    """

    cell: Cell
    old: ModelSpec
    new: ModelSpec
    shares: int
    orders: tuple[str, ...]
    first: ModelSpec | None = None

    @property
    def generations(self) -> dict[str, ModelSpec]:
        """The models of the cell by their age, the first to be deployed first."""
        first = {} if self.first is None else {"first": self.first}
        return {**first, "old": self.old, "new": self.new}

    @cached_property
    def key(self) -> str:
        """Name of the per-query records: a hash of all that decides them."""
        return digest(
            {
                "cell": astuple(self.cell),
                "first": self.first and self.first.embeddings_key("gallery"),
                "old": self.old.embeddings_key("gallery"),
                "new": [self.new.key, self.new.embeddings_key("gallery")],
                "shares": self.shares,
                "orders": self.orders,
                "schema": SCHEMA_VERSION,
                "sources": source_digest(_sources(RECORD_SOURCES)),
            }
        )

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def old_search_key(self) -> str:
        """Name of what the old system answers, the same for every method that replaces it."""
        return digest([self.old.embeddings_key("gallery"), source_digest(_sources(RECORD_SOURCES))])

    def foundations(self) -> list[ModelSpec]:
        """Models that the cell needs and that depend on no other: trained first, then shared."""
        every: dict[ModelSpec, None] = {}

        def visit(model: ModelSpec) -> None:
            for needed in model.needs():
                visit(needed)
            every[model] = None

        for model in self.generations.values():
            visit(model)
        return [model for model in every if not model.needs()]


def make_plan(suite: Suite, revision: str | None = None) -> list[CellSpec]:
    """Turn a suite into cells; raises BenchError for unknown names and wrong settings.

    With `revision` the dataset is not asked for its own, and need not be there.
    """
    scenarios = load_scenarios()
    for order in suite.orders:
        if order not in ORDERS:
            raise unknown("backfill order", order, ORDERS)
    chosen = {name: _scenario(scenarios, name) for name in suite.scenarios}
    planner = _Planner(suite, revision)
    unused = set(suite.options) - {*registry.discover("methods"), _kind(suite.dataset)}
    if unused:
        registry.find("methods", min(unused))
    return [planner.cell(cell, chosen[cell.scenario]) for cell in cells(suite)]


def _scenario(scenarios: dict[str, Scenario], name: str) -> Scenario:
    if name not in scenarios:
        raise unknown("scenario", name, scenarios)
    return scenarios[name]


class _Planner:
    """Makes specs for one suite, asking each plug-in once."""

    def __init__(self, suite: Suite, revision: str | None) -> None:
        self.suite = suite
        options = suite.options.get(_kind(suite.dataset), {})
        adapter = registry.make_dataset(suite.dataset, options)
        self.dataset = DatasetSpec(
            _kind(suite.dataset),
            _canonical(adapter.config.model_dump(mode="json")),
            _canonical(adapter.config.model_dump(mode="json", exclude=set(adapter.unkeyed))),
            revision or adapter.revision(),
            suite.split,
        )
        self.methods = {
            name: registry.make_method(name, suite.options.get(name))
            for name in {*suite.methods, REFERENCE_METHOD}
        }

    def cell(self, cell: Cell, scenario: Scenario) -> CellSpec:
        """Make the spec of one cell."""
        trainer = cell.method if self.methods[cell.method].trains_old else REFERENCE_METHOD
        first = None
        if scenario.first is not None:
            first = self._model(self._side("old", scenario.first), cell.seed, trainer)
            trainer = cell.method
        old = self._model(self._side("old", scenario.old), cell.seed, trainer, first)
        new = self._model(self._side("new", scenario.new), cell.seed, cell.method, old)
        return CellSpec(cell, old, new, self.suite.shares, self.suite.orders, first)

    def _side(self, age: Literal["old", "new"], side: Side) -> Side:
        """Add what the suite says of this side in every scenario."""
        return side.model_copy(update={"recipe": {**side.recipe, **self.suite.sides.get(age, {})}})

    def _model(self, side: Side, seed: int, name: str, old: ModelSpec | None = None) -> ModelSpec:
        method = self.methods[name]
        settings = {**self.suite.recipe.model_dump(), **side.recipe}
        recipe = validated(Recipe, settings, f"recipe of {name}")
        settled_here = {
            "width": recipe.width + method.extra_width,
            "precision": settled(recipe.precision),
        }
        recipe = recipe.model_copy(update=settled_here)
        spec = ModelSpec(
            self.dataset,
            recipe,
            side.model_copy(update={"recipe": {}}),  # which `recipe` has taken in
            seed,
            name,
            _canonical(method.config.model_dump(mode="json")),
            without=old.side if old is not None and side.disjoint else None,
        )
        if old is None or not method.needs_old:
            return spec
        needs_independent = method.needs_independent or not method.trains
        independent = self._model(side, seed, REFERENCE_METHOD, old) if needs_independent else None
        return replace(spec, old=old, independent=independent, trains=method.trains)


def vectors_digest(path: Path) -> str:
    """Name the content of a file of vectors, and of the ids beside it."""
    ids = path.with_suffix(".ids.txt")
    return digest([file_digest(each) for each in (path, ids) if each == path or ids.is_file()])


def _kind(dataset: str) -> str:
    """Name of a dataset's adapter: what stands before the colon, if there is one."""
    return dataset.partition(":")[0]


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)
