"""Suite → cells with the models that they compare, as specs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

from bench.errors import BenchError, unknown
from bench.evaluation.orders import ORDERS
from bench.evaluation.records import REFERENCE_METHOD
from bench.pipeline.specs import CellSpec, DatasetSpec, ModelSpec
from bench.plugins import registry
from bench.settings import validated
from bench.storage.results import Cell, dataset_label
from bench.suites.loading import load_scenarios
from bench.suites.precision import resolve_precision
from bench.suites.schema import Recipe, Scenario, Side, Suite


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
    for name in sorted(set(suite.options) - {_kind(suite.dataset)}):
        _refuse_unusable(name, suite)
    return [planner.cell(cell, chosen[cell.scenario]) for cell in suite_cells(suite)]


def _refuse_unusable(name: str, suite: Suite) -> None:
    """Refuse settings of another dataset, and wrong ones also of a method that is not run."""
    if name in registry.discover("datasets"):
        raise BenchError(
            f"suite '{suite.name}' has settings of the dataset '{name}', but it runs on "
            f"'{suite.dataset}'; leave them out"
        )
    registry.make_method(name, suite.options[name])


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
        self.has_images = adapter.has_images
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
        self._refuse_unfit(recipe, name)
        settled_here = {
            "width": _width(recipe) + method.extra_width,
            "precision": resolve_precision(recipe.precision),
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
        fits = method.fits(old.recipe.width, recipe.width)
        return replace(spec, old=old, independent=independent, trains=method.trains, fits=fits)

    def _refuse_unfit(self, recipe: Recipe, name: str) -> None:
        """Refuse items without images or vectors, and training what the recipe leaves as it is."""
        if not self.has_images and recipe.embeddings is None:
            raise BenchError(
                f"the items of '{self.suite.dataset}' have no images; give their vectors with "
                "--embeddings FILE, or one file to each side with --set old.embeddings=FILE "
                "--set new.embeddings=FILE"
            )
        if recipe.project:
            return
        if recipe.embeddings is None:
            raise BenchError(
                "project=false compares fixed vectors as they are, yet a model of "
                f"{recipe.backbone} is to be trained; give vectors with --embeddings FILE"
            )
        method = self.methods[name]
        if method.trains and name != REFERENCE_METHOD:
            bridges = [each for each in sorted(self.methods) if not self.methods[each].trains]
            raise BenchError(
                f"method '{name}' trains an embedding, yet project=false compares the vectors of "
                f"{recipe.embeddings} as they are; expected {REFERENCE_METHOD} and methods that "
                f"bridge two fixed models{': ' if bridges else ''}{', '.join(bridges)}"
            )


def _width(recipe: Recipe) -> int:
    """Dimensions of the embedding: the file's where its vectors are compared as they are."""
    if recipe.project or recipe.embeddings is None:
        return recipe.width
    from bench.data.precomputed import read_precomputed

    return read_precomputed(recipe.embeddings).width


def _kind(dataset: str) -> str:
    """Name of a dataset's adapter: what stands before the colon, if there is one."""
    return dataset.partition(":")[0]


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)


def suite_cells(suite: Suite) -> list[Cell]:
    """Every cell of a suite, methods innermost so that seeds finish together."""
    return [
        Cell(suite.name, dataset_label(suite.dataset), scenario, method, seed)
        for scenario in suite.scenarios
        for seed in suite.seeds
        for method in suite.methods
    ]
