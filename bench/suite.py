"""Suites, scenarios and recipes: what is to be compared, as typed settings read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from bench.errors import BenchError, unknown
from bench.precision import Precision
from bench.registry import dataset_label
from bench.settings import Settings, validated

RECORDS, FLIPS = "records.parquet", "flips.json"
SUITES = Path(__file__).parent / "suites"


class Recipe(Settings):
    """How one embedding model is built and trained."""

    backbone: str = Field("test_resnet", description="timm model name")
    backbone_options: dict[str, Any] = Field({}, description="keyword arguments for timm")
    pretrained: bool = Field(False, description="load timm's pretrained weights")
    weights: Path | None = Field(None, description="file of backbone weights to start from")
    features: Path | None = Field(
        None, description="file of fixed vectors of the images, in place of pixels and backbone"
    )
    pooling: Literal["gem", "average"] = Field("gem", description="how a feature map is pooled")
    width: PositiveInt = Field(128, description="dimensions of the embedding")
    image_size: PositiveInt = Field(48, description="pixels along each side")
    crop_from: PositiveInt | None = Field(
        None, description="pixels to which images are decoded before a crop; default image_size"
    )
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    optimizer: str = Field("sgd", description="a name that timm.optim knows")
    learning_rate: PositiveFloat = 0.1
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    temperature: PositiveFloat = Field(0.05, description="of the cosine classifier")
    crop_area: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.6, 1.2), description="range of the area seen in training; above 1 zooms out"
    )
    crop_ratio: PositiveFloat = Field(1.15, description="largest change of the aspect ratio")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    precision: Precision = Field(
        "float32", description="in which the backbone computes; auto: bfloat16 where it is native"
    )

    def from_scratch(self) -> Recipe:
        """Return the same model without pretrained weights, for weights that replace them."""
        return self.model_copy(update={"pretrained": False, "weights": None})


class Side(Settings):
    """One side of an upgrade: what its model is trained on, and what differs in its recipe."""

    classes: float = Field(1.0, gt=0, le=1, description="share of the training classes")
    images: float = Field(1.0, gt=0, le=1, description="share of each class's images")
    disjoint: bool = Field(False, description="train on none of the old side's classes")
    recipe: dict[str, Any] = Field({}, description="recipe keys that differ on this side")


class Scenario(Settings):
    """An upgrade from an old to a new model, or the last one of a chain of two upgrades.

    With a `first` side the old model is itself an upgrade of a model of that side, by the method
    that is tried: each method then has an old model of its own.
    """

    summary: str
    first: Side | None = None
    old: Side = Side()
    new: Side = Side()


class Suite(Settings):
    """What `python -m bench all` runs: every scenario × method × seed on one dataset."""

    name: str
    summary: str
    dataset: str
    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    split: Literal["test", "validation"] = Field(
        "test", description="validation: search among held-out training classes, to choose settings"
    )
    shares: int = Field(11, ge=2, description="points of the backfill curve, 0 and 1 included")
    orders: tuple[str, ...] = Field(
        ("random",), min_length=1, description="backfill orders; tables show the first"
    )
    recipe: Recipe = Recipe()
    sides: dict[Literal["old", "new"], dict[str, Any]] = Field(
        {}, description="recipe keys that differ on one side of every scenario"
    )
    options: dict[str, dict[str, Any]] = Field(
        {}, description="settings of methods and of the dataset, by name"
    )


@dataclass(frozen=True)
class Cell:
    """One unit of work and of record: a method in a scenario with a seed."""

    suite: str
    dataset: str
    scenario: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.scenario}/{self.method}/seed-{self.seed}"

    def record_path(self, results: Path) -> Path:
        """Where the per-query records of this cell lie, whatever its settings."""
        folder = results / "records" / self.suite / self.dataset / self.scenario / self.method
        return folder / f"seed-{self.seed}.parquet"

    def published(self, results: Path) -> dict[str, Path]:
        """Where a cell's files lie for people, by their names in the cache."""
        path = self.record_path(results)
        return {RECORDS: path, FLIPS: path.with_suffix(".flips.json")}


def cells(suite: Suite) -> list[Cell]:
    """Every cell of a suite, methods innermost so that seeds finish together."""
    return [
        Cell(suite.name, dataset_label(suite.dataset), scenario, method, seed)
        for scenario in suite.scenarios
        for seed in suite.seeds
        for method in suite.methods
    ]


def load_scenarios() -> dict[str, Scenario]:
    """Every scenario that `suites/scenarios.toml` defines, by name."""
    content = _read(SUITES / "scenarios.toml")
    return {
        name: validated(Scenario, table, f"scenario '{name}'") for name, table in content.items()
    }


def suite_names() -> list[str]:
    """Names of the suites that come with the harness."""
    return sorted(path.stem for path in SUITES.glob("*.toml") if path.stem != "scenarios")


def load_suite(name: str) -> dict[str, Any]:
    """Read a suite by its name or by the path of a TOML file, not yet validated.

    A suite that says `extends = NAME` has what that one says, but for what it says itself.
    """
    path = Path(name) if name.endswith(".toml") else SUITES / f"{name}.toml"
    if path.parent == SUITES and name not in suite_names():
        raise unknown("suite", name, suite_names())
    content = _read(path)
    base = load_suite(content.pop("extends")) if "extends" in content else {}
    for table in ("recipe", "options"):
        content[table] = {**base.get(table, {}), **content.get(table, {})}
    return {**base, **content, "name": path.stem}


def compose(content: dict[str, Any], assignments: Iterable[str] = (), **chosen: Any) -> Suite:
    """Make a suite of TOML content, the command line's choices and its `key=value` settings.

    A key is a suite's or a recipe's own (`epochs=5`), or dotted: `recipe.KEY`, `old.KEY` or
    `new.KEY` for the recipe of one side, `METHOD.KEY`, `DATASET.KEY`. Raises BenchError for
    unknown keys (with the nearest name) and wrong values.
    """
    content = {**content, **{key: value for key, value in chosen.items() if value is not None}}
    recipe = dict(content.pop("recipe", {}))
    options = {name: dict(table) for name, table in content.pop("options", {}).items()}
    sides = {side: dict(content.get("sides", {}).get(side, {})) for side in ("old", "new")}
    for assignment in assignments:
        key, text = _split(assignment)
        value = _value(text)
        group, dot, inner = key.partition(".")
        if dot and group in sides:
            sides[group][inner] = value
        elif dot and group != "recipe":
            options.setdefault(group, {})[inner] = value
        elif (inner if dot else key) in Recipe.model_fields:
            recipe[inner if dot else key] = value
        elif key in Suite.model_fields and key not in {"recipe", "options", "name"}:
            content[key] = value
        else:
            raise unknown("setting", key, [*Recipe.model_fields, *Suite.model_fields])
    content |= {"recipe": recipe, "options": options, "sides": sides}
    return validated(Suite, content, f"suite '{content['name']}'")


def read_assignments(assignments: Iterable[str], owner: str) -> dict[str, Any]:
    """Read `key=value` or `OWNER.key=value` settings of one plug-in."""
    found = {}
    for assignment in assignments:
        key, text = _split(assignment)
        found[key.removeprefix(f"{owner}.")] = _value(text)
    return found


def _split(assignment: str) -> tuple[str, str]:
    key, equals, text = assignment.partition("=")
    if not equals:
        raise BenchError(f"--set {assignment} has no '='; write --set key=value")
    return key, text


def _value(text: str) -> Any:
    """Read a value as TOML does; what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{path} cannot be read as TOML: {error}") from error
