"""What stages and records keep next to their files, as typed models with a schema version."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Losses = list[dict[str, float]]


class Metadata(BaseModel):
    """Base of everything that is kept as JSON beside a result; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(Metadata):
    """Code revision, packages and hardware that a result was made with; no secrets."""

    git_revision: str
    python: str
    platform: str
    processor: str
    cores: int | None
    packages: dict[str, str]
    device: str
    threads: int
    devices: int


class Span(Metadata):
    """When some work began and ended, in seconds since 1970."""

    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


class StageMetadata(Metadata):
    """Metadata of a finished stage: the digests of the code that made it, by part of the code.

    `span` is the stage's own work, without what it waited for or found made.
    """

    VERSION: ClassVar[int] = 1
    schema_version: int = VERSION
    code: dict[str, str] = {}
    span: Span | None = None


class ModelMetadata(StageMetadata):
    """Metadata of a trained model: its training set, images per second, losses by epoch."""

    classes: int
    images: int
    rates: dict[str, float]
    losses: Losses
    provenance: Provenance


class EmbeddingsMetadata(StageMetadata):
    """Metadata of embeddings: images per second of embedding."""

    rates: dict[str, float]
    provenance: Provenance


class FittedMetadata(StageMetadata):
    """Metadata of a fitted method: how long fitting took, on how many pairs."""

    seconds: float
    pairs: int
    provenance: Provenance


class ServingCosts(Metadata):
    """What a query costs at each of `shares`, what an item takes to store, what fitting took.

    `encoders` are the models that embed a query, `searched` what its searches go over, `purchases`
    items embedded anew for it. `encoder_ms` is reckoned from the measured images per second of each
    model, searches are timed in flat indexes of the first `items`; `bytes_per_item` is the most
    that is stored for an item during the backfill, at four bytes a number.
    """

    shares: list[float]
    encoders: list[list[str]]
    searched: list[str]
    searches: list[int]
    purchases: list[int]
    encoder_ms: dict[str, float]
    search_ms: list[float]
    bytes_per_item: int
    items: int
    fit_seconds: float = 0.0
    fit_pairs: int = 0

    def milliseconds(self, encoder_ms: dict[str, float] | None = None) -> list[float]:
        """Milliseconds of a query at each share: embedding it, searching, embedding purchases.

        `encoder_ms` takes the place of what was measured in this run.
        """
        one = encoder_ms or self.encoder_ms
        parts = zip(self.encoders, self.search_ms, self.purchases, strict=True)
        return [
            sum(one[age] for age in encoders) + searching + bought * one["new"]
            for encoders, searching, bought in parts
        ]


class Machine(Metadata):
    """What a rate was measured on."""

    device: str
    processor: str
    devices: int
    threads: int
    precision: str


class RunConfiguration(Metadata):
    """Settings of a run, by the names that `--set` uses; sides and recipes are plain JSON."""

    shares: int
    orders: tuple[str, ...]
    dataset: dict[str, Any]
    split: str
    method: dict[str, Any]
    first_side: dict[str, Any] | None = None
    first_recipe: dict[str, Any] | None = None
    old_side: dict[str, Any]
    old_recipe: dict[str, Any]
    new_side: dict[str, Any]
    new_recipe: dict[str, Any]

    @property
    def is_chain(self) -> bool:
        """Whether the old model is itself an upgrade of an earlier one."""
        return self.first_side is not None


class RunMetadata(Metadata):
    """What all records of one run have in common.

    `code` holds the digests of the code that made each stage, as the stages remember them;
    `trained` the provenance of each model by its age (first, old, new); `work` when the run's own
    stages (training of the new model, embedding, evaluation) were worked on.
    `queries_in_gallery` counts the queries that are gallery items; None in records that were made
    before it was counted.
    """

    schema_version: int
    suite: str
    dataset: str
    scenario: str
    method: str
    seed: int
    key: str
    metric: str
    dataset_revision: str
    dataset_key: str
    dataset_counts: dict[str, int]
    queries_in_gallery: int | None = None
    settings: RunConfiguration
    losses: Losses
    rates: dict[str, float]
    measured_on: dict[str, Machine]
    costs: ServingCosts | None = None
    provenance: Provenance
    trained: dict[str, Provenance] = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)
    work: dict[str, Span] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Short name of the run within its suite and dataset."""
        return f"{self.scenario} · {self.method} · seed {self.seed}"

    def content(self) -> dict[str, Any]:
        """Return plain JSON content without fields that do not apply."""
        return self.model_dump(mode="json", exclude_none=True)
