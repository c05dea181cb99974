"""Suites, scenarios and recipes as typed settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from bench.settings import Settings, validated
from bench.suites.precision import Precision

NAME = (
    r"^\w[\w +=,-]*(\.[\w +=,-]+)*$"  # of a suite: a folder, an experiment and a part of commands
)
LONGEST_NAME = 80
LARGEST_SEED = 2**63 - 1
Some = TypeVar("Some")
Rounding = Literal["nearest", "down"]


def _ascending(area: tuple[float, float]) -> tuple[float, float]:
    if area[0] > area[1]:
        raise ValueError("the first number is to be the smaller one")
    return area


def _each_once(values: tuple[Some, ...]) -> tuple[Some, ...]:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")
    return values


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse numbers without end wherever they stand: JSON, which names results, has none."""
    json.dumps(values, allow_nan=False)
    return values


def _named(path: Path | None) -> Path | None:
    if path == Path():
        raise ValueError("expected the path of a file")
    return path


def _of_recipe(changes: dict[str, Any]) -> dict[str, Any]:
    validated(Recipe, changes, "the recipe of one side")
    return changes


RecipeChanges = Annotated[dict[str, Any], AfterValidator(_of_recipe)]
Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]
FilePath = Annotated[Path | None, AfterValidator(_named)]
# No machine trains beyond these; a number with too many digits is refused by its name.
Count = Annotated[int, Field(gt=0, le=10_000_000)]
Pixels = Annotated[int, Field(gt=0, le=65_535)]
Factor = Annotated[float, Field(ge=1e-9, le=1e9)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Recipe(Settings):
    """How one embedding model is built and trained."""

    backbone: str = Field("test_resnet", min_length=1, description="timm model name")
    backbone_options: Annotated[dict[str, Any], AfterValidator(_finite)] = Field(
        {}, description="keyword arguments for timm"
    )
    pretrained: bool = Field(False, description="load timm's pretrained weights")
    weights: FilePath = Field(None, description="file of backbone weights to start from")
    embeddings: FilePath = Field(
        None, description="file of fixed vectors of the images, in place of pixels and backbone"
    )
    project: bool = Field(
        True,
        description="train a projection of fixed vectors; false: compare them as they are, with "
        "the width of their file",
    )
    pooling: Literal["gem", "average"] = Field("gem", description="how a feature map is pooled")
    gem_power: Factor = Field(3.0, description="p of generalised-mean pooling, at first")
    gem_learns: bool = Field(True, description="whether training changes that p")
    head: Literal["cosine", "inner-product"] = Field(
        "cosine",
        description="classifier: cosines over the temperature, or products without either",
    )
    width: Count = Field(128, description="dimensions of the embedding")
    image_size: Pixels = Field(48, description="pixels along each side")
    crop_from: Pixels | Literal["original"] | None = Field(
        None,
        description="pixels to which images are squared before a crop, default image_size; "
        "original: windows inside the picture as it is, none beyond its border",
    )
    share_rounding: Rounding = Field(
        "nearest", description="how many classes or images a share of them is"
    )
    epochs: Count = 20
    batch_size: Count = 64
    optimizer: str = Field("sgd", min_length=1, description="a name that timm.optim knows")
    learning_rate: Factor = 0.1
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0, le=1e9)
    decays: Literal["weights", "everything"] = Field(
        "weights", description="what decays: weights of layers, or biases and norms as well"
    )
    warmup_epochs: float = Field(1.0, ge=0, le=10_000_000)
    warmup_from: float | None = Field(
        None, gt=0, le=1, description="share of the rate at the first step; default one step's"
    )
    cosine_over: Literal["rest", "whole"] = Field(
        "rest", description="epochs the cosine spans: those after the warm-up, or all of them"
    )
    temperature: Factor = Field(0.05, description="of the cosine classifier")
    crop_area: Annotated[tuple[Factor, Factor], AfterValidator(_ascending)] = Field(
        (0.6, 1.2), description="range of the area seen in training; above 1 zooms out"
    )
    crop_ratio: Factor = Field(1.15, description="largest change of the aspect ratio")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    precision: Precision = Field(
        "float32", description="in which the backbone computes; auto: bfloat16 where it is native"
    )

    @property
    def read_size(self) -> int:
        """Pixels along each side of the images that a dataset is asked for to train on."""
        return self.crop_from if isinstance(self.crop_from, int) else self.image_size

    def from_scratch(self) -> Recipe:
        """Return the same model without pretrained weights, for weights that replace them."""
        return self.model_copy(update={"pretrained": False, "weights": None})


class Side(Settings):
    """One side of an upgrade: what its model is trained on, and what differs in its recipe."""

    classes: float = Field(1.0, gt=0, le=1, description="share of the training classes")
    images: float = Field(1.0, gt=0, le=1, description="share of each class's images")
    disjoint: bool = Field(False, description="train on none of the old side's classes")
    recipe: RecipeChanges = Field({}, description="recipe keys that differ on this side")


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

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    summary: str
    dataset: str = Field(min_length=1)
    scenarios: Names
    methods: Names
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_each_once)] = Field((0, 1, 2), min_length=1)
    split: Literal["test", "validation"] = Field(
        "test", description="validation: search among held-out training classes, to choose settings"
    )
    shares: int = Field(
        11, ge=2, le=10_001, description="points of the backfill curve, 0 and 1 included"
    )
    orders: Names = Field(("random",), description="backfill orders; tables show the first")
    recipe: Recipe = Recipe()
    sides: dict[Literal["old", "new"], RecipeChanges] = Field(
        {}, description="recipe keys that differ on one side of every scenario"
    )
    options: dict[str, dict[str, Any]] = Field(
        {}, description="settings of methods and of the dataset, by name"
    )
