"""What a plug-in author reads: `Method` and `DatasetAdapter`, and what each of them is given.

A method returns *loss terms*. It never calls `backward`, never steps an optimiser and never sees
queries or gallery while training. At search time it is told the *state* of a gallery item,
`"old"` (not yet backfilled) or `"new"`, and sees only what a deployed system has stored for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.relevance import Relevance
from bench.settings import Settings

State = Literal["old", "new"]


# ------------------------------------------------------------------------------------- datasets


class Images(Protocol):
    """Random access to images of one fixed size.

    A class whose `read` decodes files says `decodes = True`: other processes then read ahead.
    """

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, H, W]."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Images with one class label [N] and one stable, unique identifier each."""

    images: Images
    labels: NDArray[np.int64]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RetrievalData:
    """One dataset, split for retrieval: train on `train`, search `query` in `gallery`.

    `query` may be the very same object as `gallery`; it is then embedded once. `metric` is `"AP"`,
    `"AP@k"`, `"AP-trapezoidal"`, `"nDCG@k"`, `"Recall@k"`, `"MRR@k"` or `"P@k"`, the only one in
    which this dataset is reported. `counts` tells what was read and what was dropped. `groups`
    names the class, landmark, person or product of each query [Q]: queries of one group share
    answers and fail together, so that statistics take the group as the unit that is sampled; None
    makes each query its own group.

    Raises ValueError for another number of group names than queries.
    """

    train: ImageSet
    query: ImageSet
    gallery: ImageSet
    relevance: Relevance
    metric: str = "AP"
    counts: dict[str, int] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.groups is not None and len(self.groups) != len(self.query):
            raise ValueError(
                f"{len(self.groups)} groups for {len(self.query)} queries; name one for each query"
            )


class DatasetAdapter(ABC):
    """Base of every adapter in `datasets/`: one subclass per file, whose stem is the name.

    A dataset may be written `NAME:SOURCE`; the adapter's option `source` is then what follows the
    colon. `unkeyed` names options that do not change the content, such as its path:
    results are keyed by the others and by `revision`. `has_images = False` says that its items are
    known by their vectors alone, which the recipe's `embeddings` names.
    """

    unkeyed: ClassVar[frozenset[str]] = frozenset()
    has_images: ClassVar[bool] = True

    class Config(Settings):
        """Options of the dataset; `--set dataset.KEY=VALUE` reaches them."""

    def __init__(self, config: Config | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    @abstractmethod
    def revision(self) -> str:
        """Name the content, cheaply and without loading it: results are keyed by this string."""

    @abstractmethod
    def load(self, image_size: int, cache: Path) -> RetrievalData:
        """Read the dataset with images of `image_size` × `image_size` pixels.

        `cache` is a folder in which derived files may be kept, written atomically.
        Raises `bench.errors.BenchError` naming file, row and expectation for bad input.
        """


# -------------------------------------------------------------------------------------- methods


class Loaded:
    """A tensor that may be given as a function, which is called when the tensor is first read.

    At the size of a landmark dataset the old embeddings take gigabytes of a GPU's memory, which a
    method that never reads them does not pay for.
    """

    def __init__(self, optional: bool = False) -> None:
        self.optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            if self.optional:
                return None  # the default of the field
            raise AttributeError(self.name)  # there is none
        value = vars(instance)[self.name]
        if callable(value):
            value = vars(instance)[self.name] = value()
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value


@dataclass(frozen=True)
class Context:
    """What a method knows before training: widths, classes, and the frozen old system.

    `old_row` [C] maps each class of the new model to its row in `old_head`, or −1 when the old
    model never saw the class. `old_embeddings` [N, Do] are unit vectors of the un-augmented
    training images under the old model, `labels` [N] their classes; `independent_embeddings`
    [N, Dn] those of the independently trained new model, for methods that set
    `needs_independent`, with its classifier `independent_head` [C, Dn]. `class_ids` [C] tells the
    place of each class among the `dataset_classes` classes of the dataset's whole training split,
    the same on both sides of an upgrade. `old_is_stored`: where a side's images are fixed vectors,
    the loop shows no augmented image to the old model, and `old_embeddings` are what it compares.
    `load_centres` gives `old_centres` where other methods share them. Both tables of embeddings may
    be given as functions that load them, when somebody reads them.
    """

    old_width: int
    new_width: int
    class_count: int
    temperature: float
    old_head: Tensor
    old_row: Tensor
    labels: Tensor
    old_embeddings: Any = Loaded()
    independent_embeddings: Any = Loaded(optional=True)
    independent_head: Tensor | None = None
    class_ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    dataset_classes: int = 0
    old_is_stored: bool = False
    load_centres: Callable[[], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Device of every tensor here."""
        return self.old_head.device

    @cached_property
    def class_counts(self) -> Tensor:
        """Training images of each class [C]."""
        return torch.bincount(self.labels, minlength=self.class_count)

    @cached_property
    def old_centres(self) -> Tensor:
        """Mean old embedding of each class [C, Do]; a class without images gets zeros."""
        return self.mean_of_classes() if self.load_centres is None else self.load_centres()

    def mean_of_classes(self) -> Tensor:
        """Compute `old_centres`."""
        sums = self.old_embeddings.new_zeros(self.class_count, self.old_width)
        sums.index_add_(0, self.labels, self.old_embeddings)
        mean: Tensor = sums / self.class_counts.clamp(min=1).unsqueeze(1)
        return mean


class Step:
    """One batch as a method sees it.

    `rows` [B] into the training set; `labels` [B]; `images` [B, 3, H, W] after augmentation, or
    fixed vectors [B, F] where the recipe has these;
    `new` [B, Dn] the new embedding, a unit vector with gradient; `old_row` [B] the row of the
    label in `old_head` or −1; `new_head` [C, Dn]; `old_head` [Co, Do] (frozen);
    `progress` in [0, 1]; `epoch` counted from 0, of `epochs`. `old` is computed when first read,
    never if nobody reads it.

    Where several devices share a batch, each embeds a part of its images, and `gather` joins the
    parts: what a method sees is the whole batch, so that negatives are those of all devices.
    """

    def __init__(
        self,
        images: Tensor,
        rows: Tensor,
        labels: Tensor,
        new: Tensor,
        new_head: Tensor,
        old_model: nn.Module | None,
        context: Context,
        progress: float,
        epoch: int,
        gather: Callable[[Tensor], Tensor] = lambda part: part,
        epochs: int = 1,
        lengths: Tensor | None = None,
    ) -> None:
        self.rows, self.labels, self.new = rows, labels, new
        self.new_head, self.old_head = new_head, context.old_head
        self.old_row = context.old_row[labels]
        self.progress, self.epoch, self.epochs = progress, epoch, epochs
        self.temperature = context.temperature
        self._part, self._old_model, self._gather = images, old_model, gather
        self._lengths, self._context = lengths, context

    @cached_property
    def images(self) -> Tensor:
        """Augmented images in [0, 1], [B, 3, H, W], or fixed vectors [B, F]."""
        return self._gather(self._part)

    @cached_property
    def old(self) -> Tensor:
        """Old embedding of the same augmented images: unit vectors [B, Do], detached.

        Raises UnavailableEmbeddingError for a method that declared `needs_old = False`.
        """
        if self._context.old_is_stored:
            stored: Tensor = self._context.old_embeddings[self.rows]
            return stored
        if self._old_model is None:
            raise UnavailableEmbeddingError("there is no old model here")
        if self._lengths is not None:
            return functional.normalize(self._old_raw, dim=1)
        with torch.no_grad():
            return self._gather(self._old_model(self._part)).detach()

    @cached_property
    def _old_raw(self) -> Tensor:
        """Old embedding [B, Do] at the lengths that the old model gives, detached."""
        if self._old_model is None:
            raise UnavailableEmbeddingError(
                "the lengths of stored old embeddings are not known; use head = 'cosine'"
            )
        with torch.no_grad():
            return self._gather(self._old_model.raw(self._part)).detach()  # type: ignore[operator]

    @cached_property
    def classification(self) -> Tensor:
        """Cross-entropy of the new classifier: the loop adds it unless a method returns its own."""
        return functional.cross_entropy(self.logits(self.new, self.new_head), self.labels)

    def logits(self, embedding: Tensor, head: Tensor, of: State = "new") -> Tensor:
        """Logits [B, C] of unit embeddings [B, D] against class vectors [C, D].

        Cosines over the temperature or, where the recipe's head takes inner products, the products
        of `head` with embeddings at their lengths: those of the images' new embeddings, or of the
        old ones where `of` says so.
        """
        if self._lengths is None:
            return embedding @ functional.normalize(head, dim=1).T / self.temperature
        lengths = self._lengths if of == "new" else self._old_raw.norm(dim=1, keepdim=True)
        return embedding * lengths @ head.T


@dataclass(frozen=True)
class PairedEmbeddings:
    """Paired unit embeddings of the un-augmented training images, for methods fitted afterwards."""

    old: Tensor
    new: Tensor
    labels: Tensor
    new_head: Tensor


class UnavailableEmbeddingError(RuntimeError):
    """A method asked for an embedding that a deployed system does not have at that moment."""


class StoredEmbeddings:
    """Embeddings that exist for a set of items; asking for one that does not is an error."""

    def __init__(self, old: Tensor | None = None, new: Tensor | None = None) -> None:
        self._old, self._new = old, new

    @property
    def old(self) -> Tensor:
        """Old embeddings [N, Do], unit vectors."""
        if self._old is None:
            raise UnavailableEmbeddingError(
                "the old embeddings are not stored: these items are backfilled"
            )
        return self._old

    @property
    def old_width(self) -> int:
        """Dimensions Do of old embeddings, which nobody embeds anything to know; 0 without any."""
        return 0 if self._old is None else self._old.shape[1]

    @property
    def new(self) -> Tensor:
        """New embeddings [N, Dn], unit vectors."""
        if self._new is None:
            raise UnavailableEmbeddingError(
                "the new embeddings do not exist yet: these items are not backfilled"
            )
        return self._new


class Method(nn.Module):
    """Base of every method in `methods/`: one subclass per file, whose stem is the name.

    Class attributes say what a method needs of the harness:

    - `trains = False`: it deploys the independent model and only calls `fit`;
    - `trains_old = True`: the old model is trained by it too, without an older one
      (`old_width` is then 0), so that its old system is its own;
    - `needs_old = False`: training does not depend on the old system at all, and one model serves
      every scenario with the same new side;
    - `needs_independent = True`: it reads the independently trained new model's embeddings;
    - `extra_width`: dimensions that its embedding has beyond the recipe's width;
    - `query_encodings`, `searches`: how many models embed a query, and how many searches it takes,
      while a gallery holds both old and new items. `prepare` may set them where widths decide.
      `bench check` holds them against what `query` does; None: only that is known;
    - `merge`: an optional function `(old_scores [Q, No], new_scores [Q, Nn]) -> the same pair` of
      methods that merge two searches at each backfill share, query by query; where it depends on
      what was prepared, a property;
    - `quick`: settings with which `fit` takes no time, for `bench check` and rehearsals, which try
      whether a method works and not how well.

    The property `purchases` says how many items are embedded anew for each query.
    """

    trains: ClassVar[bool] = True
    trains_old: ClassVar[bool] = False
    needs_old: ClassVar[bool] = True
    needs_independent: ClassVar[bool] = False
    extra_width: ClassVar[int] = 0
    merge: ClassVar[Any] = None
    query_encodings: int | None = None
    searches: int | None = None
    quick: ClassVar[Mapping[str, Any]] = {}

    class Config(Settings):
        """Hyper-parameters; `--set NAME.KEY=VALUE` reaches them."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config: Any = config if config is not None else self.Config()

    @property
    def purchases(self) -> int:
        """Items not yet backfilled whose new embedding is made for each query, at most; 0: none.

        They are the best of the old search, and are re-scored by `query` and `gallery` in state
        `"new"`; old items that were not bought come after all that have a new score. What is
        bought is counted at every share and never stored. A method that buys does not merge.
        """
        return 0

    def prepare(self, context: Context) -> None:
        """Create every parameter and buffer of the method; called once, before training.

        A method that cannot work in an upgrade refuses it here, and only here: it raises
        `bench.errors.BenchError` with one sentence that says what it needs and what it was given,
        widths or known classes say. The run then ends with that sentence, before anything is
        trained for it; the other methods go on.
        """

    def classifier(self, head: Tensor) -> Tensor:
        """Class vectors [C, Dn] of the new classifier; the trained `head` unless they are fixed."""
        return head

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return named scalar terms; a term named `classification` replaces the loop's own.

        MLflow shows a term as the metric `loss_NAME`: letters, digits, `_`, `-`, `.`, `:`, spaces
        and single slashes.
        """
        return {}

    def fit(self, bank: PairedEmbeddings) -> None:
        """Fit on paired training embeddings after training; nothing by default."""

    def fits(self, old_width: int, new_width: int) -> bool:
        """Return whether `fit` has anything to do; if not, no training image is embedded for it."""
        return type(self).fit is not Method.fit

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """What a query is compared with, among gallery items in `state`: [Q, D]."""
        return view.new

    def gallery(self, view: StoredEmbeddings, state: State) -> Tensor:
        """What is stored for gallery items in `state`: [N, D]."""
        return view.old if state == "old" else view.new

    def uncertainty(self, view: StoredEmbeddings) -> Tensor | None:
        """Uncertainty [N] about stored items by their old embeddings: largest is backfilled first.

        None: the method has no order of its own.
        """
        return None
