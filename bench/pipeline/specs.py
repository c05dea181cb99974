"""What is to be made: specs of models, embeddings and records, each with its key and its needs.

The keys decide fairness: split, old model, old embeddings and backfill order are keyed without
the method, so that every method of a (dataset, scenario, seed) meets the same old system.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cached_property
from typing import ClassVar

from bench.evaluation.records import SCHEMA_VERSION
from bench.pipeline.keys import embeddings_digest, plugin_code, stage_code
from bench.storage.digest import digest, file_digest
from bench.storage.provenance import training_packages
from bench.storage.results import Cell
from bench.suites.schema import Recipe, Side


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
        """All that decides the images, wherever they are."""
        code = (stage_code("data"), plugin_code("datasets", self.name))
        return self.name, self.content, self.revision, self.split, *code


@dataclass(frozen=True)
class ModelSpec:
    """One embedding model: how it is trained, under which method, against which old model.

    `without` is the side whose classes a disjoint side leaves out; `options` is canonical JSON.
    `trains` and `fits` tell what the method does: train the model, be fitted afterwards.
    """

    stage: ClassVar[str] = "models"

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
    fits: bool = False

    @cached_property
    def key(self) -> str:
        """Name of the trained weights: a hash of all that decides them."""
        return digest(
            {
                "dataset": self.dataset.key,
                "recipe": self.recipe.model_dump(mode="json", exclude={"weights", "embeddings"}),
                "weights": self.recipe.weights and file_digest(self.recipe.weights),
                "embeddings": self.recipe.embeddings and embeddings_digest(self.recipe.embeddings),
                "side": self.side.model_dump(mode="json"),
                "without": self.without and self.without.model_dump(mode="json"),
                "seed": self.seed,
                "method": [self.method, self.options],
                "old": self.old and self.old.key,
                "independent": self.independent and self.independent.key,
                "packages": training_packages(),
                "code": self.code,
            }
        )

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def code(self) -> dict[str, str]:
        """Digests of the code that decides the weights."""
        return {
            "data": stage_code("data"),
            "dataset": plugin_code("datasets", self.dataset.name),
            "training": stage_code("training"),
            "method": plugin_code("methods", self.method),
            "packages": training_packages(),
        }

    @property
    def deployed(self) -> ModelSpec:
        """The model that embeds images: this one, or the independent one for untrained methods."""
        if self.trains or self.independent is None:
            return self
        return self.independent

    def needs(self) -> list[Spec]:
        """What the method may read before it trains or is fitted, all that is read directly."""
        needed: list[Spec] = []
        if self.old is not None:
            old = self.old.deployed
            needed += [old, EmbeddingsSpec(old, "train"), CentresSpec(self)]
        if self.independent is not None:
            needed += [self.independent, EmbeddingsSpec(self.independent, "train")]
        return needed


@dataclass(frozen=True)
class EmbeddingsSpec:
    """The embeddings of `train`, `query` or `gallery` images under a model."""

    stage: ClassVar[str] = "embeddings"

    model: ModelSpec
    split: str

    @property
    def key(self) -> str:
        """Name of the embeddings; the model's key holds the code that computes them."""
        return digest([self.model.key, self.split])

    @property
    def code(self) -> dict[str, str]:
        """Digests of the code that decides the embeddings."""
        return self.model.code

    def needs(self) -> list[Spec]:
        """The model."""
        return [self.model]


@dataclass(frozen=True)
class CentresSpec:
    """The mean old embedding of each class that a new model is trained on.

    The same for every method of an upgrade: neither method nor recipe of the new model count.
    """

    stage: ClassVar[str] = "centres"

    model: ModelSpec

    @property
    def of(self) -> EmbeddingsSpec:
        """The old embeddings that are averaged."""
        assert self.model.old is not None
        return EmbeddingsSpec(self.model.old.deployed, "train")

    @property
    def key(self) -> str:
        """Name of the centres: the old embeddings and the images and classes of the new side."""
        sides = [side and side.model_dump(mode="json") for side in self.sides]
        return digest([self.of.key, sides, self.model.seed])

    @property
    def sides(self) -> tuple[Side, Side | None]:
        """What decides the images of the new model."""
        return self.model.side, self.model.without

    @property
    def code(self) -> dict[str, str]:
        """Digests of the code that decides the centres."""
        return self.of.code

    def needs(self) -> list[Spec]:
        """The old embeddings."""
        return [self.of]


@dataclass(frozen=True)
class FittedSpec:
    """The state of a method that was fitted on the paired embeddings of the training images."""

    stage: ClassVar[str] = "fitted"

    model: ModelSpec

    @property
    def new(self) -> EmbeddingsSpec:
        """The new embeddings that the method is fitted on."""
        return EmbeddingsSpec(self.model.deployed, "train")

    @property
    def key(self) -> str:
        """Name of the fitted state: the method's model and the embeddings on both sides."""
        old = self.model.old and EmbeddingsSpec(self.model.old.deployed, "train").key
        return digest([self.model.key, self.new.key, old])

    @property
    def code(self) -> dict[str, str]:
        """Digests of the code that decides the fitted state."""
        return self.model.code

    def needs(self) -> list[Spec]:
        """The deployed model, its embeddings, and what the method reads of the old system."""
        return [self.model.deployed, self.new, *self.model.needs()]


@dataclass(frozen=True)
class OldSearchSpec:
    """What the old system answers, the same for every method that replaces it."""

    stage: ClassVar[str] = "old_search"

    old: ModelSpec

    @property
    def key(self) -> str:
        """Name of the old system's answers."""
        return digest([EmbeddingsSpec(self.old.deployed, "gallery").key, stage_code("records")])

    @property
    def code(self) -> dict[str, str]:
        """Digests of the code that decides the answers."""
        return {**self.old.code, "records": stage_code("records")}

    def needs(self) -> list[Spec]:
        """Queries and gallery under the old model."""
        return [EmbeddingsSpec(self.old.deployed, split) for split in ("query", "gallery")]


@dataclass(frozen=True)
class CellSpec:
    """A cell with the old and the new model that it compares, and how it walks the backfill.

    In a chain of upgrades, `first` is the model that the old one has replaced.
    """

    stage: ClassVar[str] = "records"

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
        models = {
            age: [model.key, EmbeddingsSpec(model.deployed, "gallery").key]
            for age, model in self.generations.items()
        }
        return digest(
            {
                "cell": astuple(self.cell),
                "models": models,
                "shares": self.shares,
                "orders": self.orders,
                "schema": SCHEMA_VERSION,
                "code": stage_code("records"),
            }
        )

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def code(self) -> dict[str, str]:
        """Digests of the code that decides the records."""
        return {**self.new.code, "records": stage_code("records")}

    def needs(self) -> list[Spec]:
        """Every model and its embeddings, the methods as deployed, and the old system's answers."""
        ages = self.generations.values()
        replacing = [model for model in ages if model.old is not None]
        return [
            *(model.deployed for model in ages),
            *(
                EmbeddingsSpec(model.deployed, split)
                for model in ages
                for split in ("query", "gallery")
            ),
            EmbeddingsSpec(self.old.deployed, "train"),  # prototypes of backfill orders
            *(need for model in replacing for need in model.needs()),
            *(FittedSpec(model) for model in ages if model.fits),
            OldSearchSpec(self.old),
        ]

    def shared_models(self) -> list[ModelSpec]:
        """Models that the cell needs and that depend on no other: trained first, then shared."""
        return [
            spec for spec in closure([self]) if isinstance(spec, ModelSpec) and not spec.needs()
        ]


Spec = ModelSpec | EmbeddingsSpec | CentresSpec | FittedSpec | OldSearchSpec | CellSpec


def closure(specs: list[Spec] | list[CellSpec]) -> list[Spec]:
    """Return specs with all that they need, directly or not, once each and needs first."""
    found: dict[tuple[str, str], Spec] = {}

    def visit(spec: Spec) -> None:
        if (spec.stage, spec.key) not in found:
            for need in spec.needs():
                visit(need)
            found[spec.stage, spec.key] = spec

    for spec in specs:
        visit(spec)
    return list(found.values())
