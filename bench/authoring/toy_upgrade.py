"""A tiny made-up upgrade in which a method is tried: two embedders, six classes, thirty images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import BenchError
from bench.protocol import Context, Method, PairedEmbeddings, State, Step, StoredEmbeddings

CLASSES, IMAGES_PER_CLASS, PIXELS, ITEMS = 6, 5, 4, 7
STATES: tuple[State, State] = ("old", "new")
EPOCHS = 30
MOMENTS = ((0.0, 0), (0.5, 15), (0.97, 29))  # (progress, epoch) of the steps that are tried


class TinyEmbedder(nn.Module):
    """Images [B, 3, 4, 4] → unit embeddings [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(3 * PIXELS * PIXELS, width)

    def raw(self, images: Tensor) -> Tensor:
        """Embed a batch at the lengths that the layer gives."""
        embedded: Tensor = self.project(images.flatten(1))
        return embedded

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch."""
        return functional.normalize(self.raw(images), dim=1)


@dataclass(frozen=True)
class Situation:
    """A combination of widths, classes known to the old model and a batch (labels) worth trying.

    `models` says what the two embed: `"apart"` what two models do, `"equal"` the same vectors,
    `"constant"` one vector for all images, `"zero"` nothing. `lengths` multiplies the lengths of
    embeddings and makes the classifier one of inner products.
    """

    name: str
    old_width: int = 8
    new_width: int = 8
    known: Sequence[int] = (0, 1, 2)
    batch: Sequence[int] = (0, 3, 1, 4, 2, 5, 0, 3)
    models: Literal["apart", "equal", "constant", "zero"] = "apart"
    lengths: float | None = None


SITUATIONS = (
    Situation("some classes of the batch known to the old model"),
    Situation("every class of the batch known to the old model", batch=(0, 1, 2, 0, 1)),
    Situation("no class of the batch known to the old model", batch=(3, 4, 5, 3, 4)),
    Situation("no class at all known to the old model", known=()),
    Situation("every class known to the old model", known=range(CLASSES)),
    Situation("a batch of one image of a known class", batch=(1,)),
    Situation("a batch of one image of an unknown class", batch=(4,)),
    Situation("a batch of a single known class", batch=(1, 1, 1, 1)),
    Situation("a batch of a single unknown class", batch=(4, 4, 4, 4)),
    Situation("the new embedding wider than the old one", old_width=6),
    Situation("the new embedding narrower than the old one", new_width=6),
)
# Those in which embeddings say little or nothing: whatever is computed of them has to be finite.
HARD = (
    Situation("an old embedding of one dimension", old_width=1),
    Situation("a batch of two images of one class", batch=(1, 1)),
    Situation("a batch of two images of two classes", batch=(1, 4)),
    Situation("a new model that is the old one", models="equal"),
    Situation("two models that embed all images alike", models="constant"),
    Situation("two models of two widths that embed all images alike", 6, models="constant"),
    Situation("two models that embed all images as zero", models="zero"),
    Situation("a classifier of inner products", lengths=1.0),
    Situation("a classifier of inner products and very long embeddings", lengths=1e6),
)
FIRST_VERSION = Situation("no old model: the method trains it", old_width=0, known=())


class Upgrade:
    """An old and a new system in a situation, with a method prepared for it.

    Data, models and heads are the same in every trial; `seed` decides what the method draws. The
    old model would take a gradient if a method let one through.
    """

    def __init__(
        self,
        make: Callable[[], Method],
        situation: Situation = SITUATIONS[0],
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.make, self.situation = make, situation
        self.device = device or torch.device("cpu")
        self.new_width = situation.new_width + make().extra_width
        labels = torch.arange(CLASSES).repeat_interleave(IMAGES_PER_CLASS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            prototypes = torch.rand(CLASSES, 3, PIXELS, PIXELS)
            noise = torch.rand(len(labels), 3, PIXELS, PIXELS)
            self.images = self._placed(prototypes[labels] + 0.3 * noise)
            self.labels = self._placed(labels)
            # Read where there is one.
            self.old_model = self._embedder(situation.old_width or 1)
            self.embedder = self._embedder(self.new_width)
            self.head = nn.Parameter(self._placed(torch.randn(CLASSES, self.new_width)))
            self.context = self._context()
        self.method = self.prepared(seed)
        torch.manual_seed(seed)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    @torch.no_grad()
    def _embedder(self, width: int) -> TinyEmbedder:
        """Make a model, less what the situation takes from it."""
        model = TinyEmbedder(width).to(self.device)
        models, layer = self.situation.models, model.project
        if models == "equal" and hasattr(self, "old_model"):
            old = self.old_model.project
            layer.weight[: len(old.weight)], layer.bias[: len(old.bias)] = old.weight, old.bias
        if models in ("constant", "zero"):
            layer.weight.zero_()
        if models == "zero":
            layer.bias.zero_()
        if self.situation.lengths is not None:
            for parameter in layer.parameters():
                parameter.mul_(self.situation.lengths)
        return model

    def _context(self) -> Context:
        known, old_width = list(self.situation.known), self.situation.old_width
        old_row = torch.full((CLASSES,), -1)
        old_row[known] = torch.arange(len(known)).flip(0)
        old_classes = (len(known) or 4) if old_width else 0
        with torch.no_grad():
            return Context(
                old_width=old_width,
                new_width=self.new_width,
                class_count=CLASSES,
                temperature=0.05,
                old_head=self._placed(torch.randn(old_classes, old_width)),
                old_row=self._placed(old_row),
                labels=self.labels,
                old_embeddings=self.old_model(self.images)[:, :old_width],
                independent_embeddings=self._embedder(self.situation.new_width)(self.images),
                independent_head=self._placed(torch.randn(CLASSES, self.situation.new_width)),
                class_ids=self._placed(torch.arange(CLASSES)),
                dataset_classes=CLASSES,
            )

    def prepared(self, seed: int) -> Method:
        """Make the method afresh and prepare it."""
        method = self.make()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            method.prepare(self.context)
        return method.to(self.device)

    def step(self, moment: tuple[float, int] = MOMENTS[0]) -> Step:
        """Make the situation's batch at a moment (progress, epoch) of training."""
        batch = list(self.situation.batch)
        labels = self._placed(torch.tensor(batch))
        repeats = [batch[:place].count(label) for place, label in enumerate(batch)]
        rows = labels * IMAGES_PER_CLASS + self._placed(torch.tensor(repeats))
        raw = self.embedder.raw(self.images[rows])
        return Step(
            images=self.images[rows],
            rows=rows,
            labels=labels,
            new=functional.normalize(raw, dim=1),
            new_head=self.method.classifier(self.head),
            old_model=self.old_model if self.situation.old_width else None,
            context=self.context,
            progress=moment[0],
            epoch=moment[1],
            epochs=EPOCHS,
            lengths=None if self.situation.lengths is None else raw.norm(dim=1, keepdim=True),
        )

    def losses(self) -> Iterator[tuple[Step, dict[str, Tensor]]]:
        """Train for a few steps, giving each batch and its terms before the weights change."""
        learning = [*self.embedder.parameters(), self.head, *self.method.parameters()]
        optimizer = torch.optim.SGD(learning, lr=0.05)
        self.method.train()
        for moment in MOMENTS:
            step = self.step(moment)
            terms = self.method.loss(step)
            yield step, terms
            loss = step.classification if "classification" not in terms else self.head.new_zeros(())
            optimizer.zero_grad()
            sum(terms.values(), loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def finish(self) -> list[Tensor]:
        """Train where the method trains, then fit; return the losses that were met."""
        met = []
        if self.method.trains:
            met = [term.detach() for _, terms in self.losses() for term in terms.values()]
        self.fit()
        return met

    def fit(self) -> None:
        """Fit the method on the training images as the models embed them now."""
        self.method.fit(self.bank())

    def bank(self) -> PairedEmbeddings:
        """Pair the training images as the models embed them now."""
        new = self.context.independent_embeddings
        if self.method.trains:
            with torch.no_grad():
                new = self.embedder(self.images)
        assert new is not None
        head = self.method.classifier(self.head).detach().clone()
        return PairedEmbeddings(self.context.old_embeddings, new, self.labels, head)

    def view(self, *ages: State) -> StoredEmbeddings:
        """Show the embeddings of `ITEMS` items, of the given ages only."""
        with torch.no_grad():
            models = {"old": self.old_model, "new": self.embedder}
            return StoredEmbeddings(**{age: models[age](self.images[:ITEMS]) for age in ages})

    def search(self, method: Method) -> dict[str, Tensor]:
        """What a method asks of an index and puts into it, by role and state."""
        method.eval()
        answers = {}
        with torch.no_grad():
            for state in STATES:
                answers[f"query {state}"] = method.query(self.view("old", "new"), state)
                answers[f"gallery {state}"] = method.gallery(self.view(state), state)
        return answers


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Finished:
    """An upgrade after training and fitting: its losses, its search, the shapes of all state."""

    upgrade: Upgrade
    losses: list[Tensor]
    search: dict[str, Tensor]
    shapes_before: Shapes
    shapes_after: Shapes


class Trials:
    """Every upgrade that a method is tried in; what is costly is made once.

    `situation` is the one in hand, and `refused` holds what `prepare` says of those that it
    refuses. The ordinary one, the first, may not be refused.
    """

    def __init__(self, make: Callable[[], Method]) -> None:
        self.make = make
        self.situation: Situation | None = None
        self.refused: dict[str, str] = {}

    def upgrades(self, situations: Sequence[Situation] = SITUATIONS) -> Iterator[Upgrade]:
        """Set up each situation afresh, those left out that `prepare` refuses."""
        for situation in situations:
            self.situation = situation
            try:
                upgrade = Upgrade(self.make, situation)
            except BenchError as refusal:
                if situation in SITUATIONS:
                    self.refused[situation.name] = str(refusal)
                if situation is SITUATIONS[0]:
                    raise
                continue
            yield upgrade
        self.situation = None

    def steps(self) -> Iterator[tuple[Upgrade, Step, dict[str, Tensor]]]:
        """Walk through all upgrades' steps where the method trains."""
        if self.make().trains:
            for upgrade in self.upgrades():
                for step, terms in upgrade.losses():
                    yield upgrade, step, terms

    def finished(self) -> Iterator[Finished]:
        """Walk through all upgrades, trained and fitted."""
        for finished in self._finished:
            self.situation = finished.upgrade.situation
            yield finished
        self.situation = None

    def ordinary(self) -> None:
        """Go through all ordinary situations, so that what breaks in them is what is told."""
        for _ in self.steps():
            pass
        for _ in self.finished():
            pass

    @cached_property
    def _finished(self) -> list[Finished]:
        """Every upgrade, trained and fitted; without training, one for each pair of widths."""
        finished, seen = [], set()
        for upgrade in self.upgrades():
            widths = (upgrade.situation.old_width, upgrade.situation.new_width)
            if upgrade.method.trains or widths not in seen:
                seen.add(widths)
                before = _shapes(upgrade.method)
                losses, search = upgrade.finish(), upgrade.search(upgrade.method)
                after = _shapes(upgrade.method)
                finished.append(Finished(upgrade, losses, search, before, after))
        return finished


def _shapes(method: Method) -> Shapes:
    named = [*method.named_parameters(), *method.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in named}
