"""The contract that every method keeps, tried on a tiny made-up upgrade, and the cost of a step.

A check passes silently or raises `BrokenContractError`, whose message is one sentence for the
author of the method.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import registry
from bench.errors import BenchError
from bench.protocol import Bank, Context, Method, State, Step, UnavailableEmbeddingError, View

CLASSES, IMAGES_PER_CLASS, PIXELS = 6, 5, 4
STATES: tuple[State, State] = ("old", "new")
MOMENTS = ((0.0, 0), (0.5, 15), (0.97, 29))  # (progress, epoch) of the steps that are tried


class BrokenContractError(Exception):
    """A method breaks the contract; the message says how, in one sentence."""


# --------------------------------------------------------------------------- a made-up upgrade


class TinyEmbedder(nn.Module):
    """Images [B, 3, 4, 4] → unit embeddings [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(3 * PIXELS * PIXELS, width)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch."""
        return functional.normalize(self.project(images.flatten(1)), dim=1)


@dataclass(frozen=True)
class Situation:
    """A combination of widths, classes known to the old model and batches worth trying."""

    name: str
    old_width: int = 8
    new_width: int = 8
    known: Sequence[int] = (0, 1, 2)
    batch: Sequence[int] = (0, 3, 1, 4, 2, 5, 0, 3)  # labels

    @property
    def equal_widths(self) -> bool:
        return self.old_width == self.new_width


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
FIRST_OF_ITS_KIND = Situation("no old model: the method trains it", old_width=0, known=())


class Upgrade:
    """A tiny old and new system in a situation, with a method under trial in it."""

    def __init__(self, make: Callable[[], Method], situation: Situation, seed: int = 0) -> None:
        self.situation = situation
        draw = torch.Generator().manual_seed(1)  # the data never depends on the trial's seed
        self.labels = torch.arange(CLASSES).repeat_interleave(IMAGES_PER_CLASS)
        prototypes = torch.rand(CLASSES, 3, PIXELS, PIXELS, generator=draw)
        noise = torch.rand(len(self.labels), 3, PIXELS, PIXELS, generator=draw)
        self.images = prototypes[self.labels] + 0.3 * noise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.old_model = TinyEmbedder(situation.old_width)
            self.embedder = TinyEmbedder(situation.new_width)
            independent = TinyEmbedder(situation.new_width)
            self.head = nn.Parameter(torch.randn(CLASSES, situation.new_width))
            independent_head = torch.randn(CLASSES, situation.new_width)
        self.context = self._context(independent, independent_head)
        self.made = make
        self.method = self.prepared(seed)
        torch.manual_seed(seed)

    def _context(self, independent: nn.Module, independent_head: Tensor) -> Context:
        known = list(self.situation.known)
        old_row = torch.full((CLASSES,), -1)
        old_row[known] = torch.arange(len(known)).flip(0)
        draw = torch.Generator().manual_seed(3)
        rows = (len(known) or 4) if self.situation.old_width else 0
        with torch.no_grad():
            return Context(
                old_width=self.situation.old_width,
                new_width=self.situation.new_width,
                class_count=CLASSES,
                temperature=0.05,
                old_head=torch.randn(rows, self.situation.old_width, generator=draw),
                old_row=old_row,
                labels=self.labels,
                old_embeddings=self.old_model(self.images),
                independent_embeddings=independent(self.images),
                independent_head=independent_head,
                class_ids=torch.arange(CLASSES),
                dataset_classes=CLASSES,
            )

    def prepared(self, seed: int) -> Method:
        """Make the method afresh and prepare it."""
        method = self.made()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            method.prepare(self.context)
        return method

    def step(self, moment: tuple[float, int] = MOMENTS[0]) -> Step:
        """Make a batch; the old model would take a gradient if a method let it through."""
        progress, epoch = moment
        labels = torch.tensor(self.situation.batch)
        repeats = torch.tensor(
            [self.situation.batch[:place].count(k) for place, k in enumerate(self.situation.batch)]
        )
        rows = labels * IMAGES_PER_CLASS + repeats
        return Step(
            images=self.images[rows],
            rows=rows,
            labels=labels,
            new=self.embedder(self.images[rows]),
            new_head=self.head,
            old_model=self.old_model,
            context=self.context,
            progress=progress,
            epoch=epoch,
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
            loss = sum(terms.values(), torch.zeros(()))
            if loss.requires_grad:
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def finish(self) -> None:
        """Train where the method trains, then fit."""
        if self.method.trains:
            for _ in self.losses():
                pass
        bank_new = self.context.independent_embeddings
        if self.method.trains or bank_new is None:
            with torch.no_grad():
                bank_new = self.embedder(self.images)
        if self.situation.old_width:
            bank = Bank(
                self.context.old_embeddings, bank_new, self.labels, self.head.detach().clone()
            )
            self.method.fit(bank)

    def view(self, *ages: State) -> View:
        """Show the embeddings of seven items, of the given ages only."""
        with torch.no_grad():
            models = {"old": self.old_model, "new": self.embedder}
            return View(**{age: models[age](self.images[:7]) for age in ages})

    def search(self, method: Method) -> dict[str, Tensor]:
        """What a method puts into the index and asks of it, by name."""
        method.eval()
        answers = {}
        with torch.no_grad():
            for state in STATES:
                answers[f"query {state}"] = method.query(self.view("old", "new"), state)
                answers[f"gallery {state}"] = method.gallery(self.view(state), state)
        return answers


def _upgrades(make: Callable[[], Method]) -> Iterator[Upgrade]:
    """Set up every situation, those left out whose widths `prepare` refuses with a sentence."""
    for situation in SITUATIONS:
        try:
            yield Upgrade(make, situation)
        except BenchError:
            if situation.equal_widths:
                raise


# ----------------------------------------------------------------------------------- the checks


def terms_are_finite_scalars(make: Callable[[], Method]) -> None:
    """Every loss term is one finite number, and the terms keep their names."""
    for upgrade in _upgrades(make):
        names: set[str] | None = None
        for _, terms in upgrade.losses():
            for name, term in terms.items():
                if not isinstance(term, Tensor) or term.shape != ():
                    shape = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
                    raise BrokenContractError(
                        f"term '{name}' is {shape}, not a scalar tensor; average it over the batch"
                    )
                if not torch.isfinite(term):
                    raise BrokenContractError(
                        f"term '{name}' is {term.item()} with {upgrade.situation.name}"
                    )
            if names not in (None, set(terms)):
                raise BrokenContractError(
                    f"the terms change from {sorted(names or ())} to {sorted(terms)} while "
                    "training; return a zero for a term that does not count yet"
                )
            names = set(terms)


def terms_have_gradient(make: Callable[[], Method]) -> None:
    """Every term reaches the new embedding, the new classifier or the method's parameters."""
    largest: dict[str, float] = {}
    for upgrade in _upgrades(make):
        for step, terms in upgrade.losses():
            learning = [step.new, step.new_head, *upgrade.method.parameters()]
            for name, term in terms.items():
                reached = _gradients(term, learning)
                if not reached:
                    raise BrokenContractError(
                        f"term '{name}' has no gradient into the new embedding, the new "
                        f"classifier or the method's parameters with {upgrade.situation.name}"
                    )
                size = max(gradient.abs().max().item() for gradient in reached)
                largest[name] = max(largest.get(name, 0.0), size)
    for name, size in largest.items():
        if size == 0:
            raise BrokenContractError(
                f"term '{name}' has a gradient of zero in every batch that was tried"
            )


def old_system_stays_as_it_is(make: Callable[[], Method]) -> None:
    """No gradient enters the old model, and training does not change its classifier either."""
    for upgrade in _upgrades(make):
        context = upgrade.context
        before = [context.old_head.clone(), context.old_embeddings.clone()]
        for _, terms in upgrade.losses():
            for name, term in terms.items():
                if _gradients(term, list(upgrade.old_model.parameters())):
                    raise BrokenContractError(
                        f"term '{name}' sends a gradient into the old model; read `step.old`, "
                        "which is detached"
                    )
        after = [context.old_head, context.old_embeddings]
        if not all(torch.equal(*pair) for pair in zip(before, after, strict=True)):
            raise BrokenContractError(
                "training changes the old classifier or the old embeddings; clone what "
                "`prepare` takes from the context into a parameter"
            )


def state_is_complete_after_prepare(make: Callable[[], Method]) -> None:
    """No parameter or buffer appears, vanishes or changes shape after `prepare`."""
    for upgrade in _upgrades(make):
        before = _shapes(upgrade.method)
        upgrade.finish()
        upgrade.search(upgrade.method)
        after = _shapes(upgrade.method)
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        if changed:
            raise BrokenContractError(
                f"'{changed[0]}' is {before.get(changed[0], 'missing')} after `prepare` and "
                f"{after.get(changed[0], 'missing')} later; create every parameter and buffer, "
                "with its final shape, in `prepare`"
            )


def trials_are_reproducible(make: Callable[[], Method]) -> None:
    """The same seed gives the same losses and the same search, to the last bit."""
    for situation in SITUATIONS[:1]:
        runs = []
        for _ in range(2):
            upgrade = Upgrade(make, situation)
            terms = [term.detach() for _, terms in upgrade.losses() for term in terms.values()]
            upgrade = Upgrade(make, situation)
            upgrade.finish()
            runs.append((terms, list(upgrade.search(upgrade.method).values())))
        for subject, (first, second) in zip(
            ("losses", "search embeddings"), zip(*runs, strict=True), strict=True
        ):
            if not all(torch.equal(*pair) for pair in zip(first, second, strict=True)):
                raise BrokenContractError(
                    f"two trials with the same seed give different {subject}; draw random "
                    "numbers from torch's generator only"
                )


def saving_keeps_the_search(make: Callable[[], Method]) -> None:
    """A freshly prepared method that loads the saved state searches exactly as before."""
    for upgrade in _upgrades(make):
        upgrade.finish()
        expected = upgrade.search(upgrade.method)
        loaded = upgrade.prepared(seed=1)
        loaded.load_state_dict(upgrade.method.state_dict())
        for name, found in upgrade.search(loaded).items():
            if not torch.equal(found, expected[name]):
                raise BrokenContractError(
                    f"the {name} embeddings differ after saving and loading; keep what `loss` or "
                    "`fit` learns in parameters or persistent buffers"
                )


def search_is_well_formed(make: Callable[[], Method]) -> None:
    """Query and gallery of a state have one width, one finite row per item."""
    for upgrade in _upgrades(make):
        upgrade.finish()
        found = upgrade.search(upgrade.method)
        for name, embeddings in found.items():
            if embeddings.ndim != 2 or len(embeddings) != 7:
                raise BrokenContractError(
                    f"the {name} embeddings of 7 items are {tuple(embeddings.shape)}; expected "
                    "one row per item"
                )
            if not torch.isfinite(embeddings).all():
                raise BrokenContractError(f"the {name} embeddings are not finite")
        for state in STATES:
            widths = [found[f"{role} {state}"].shape[1] for role in ("query", "gallery")]
            if widths[0] != widths[1]:
                raise BrokenContractError(
                    f"for state '{state}' the query is {widths[0]} wide and the gallery "
                    f"{widths[1]} with {upgrade.situation.name}"
                )
        uncertainty = upgrade.method.uncertainty(upgrade.view("old"))
        if uncertainty is not None and uncertainty.shape != (7,):
            raise BrokenContractError(
                f"the uncertainty of 7 items is {tuple(uncertainty.shape)}; expected one number "
                "per item"
            )


def old_version_can_be_trained(make: Callable[[], Method]) -> None:
    """A method that trains the old model too works where there is no older one."""
    if make().trains_old:
        upgrade = Upgrade(make, FIRST_OF_ITS_KIND)
        for _, terms in upgrade.losses():
            if not all(torch.isfinite(term) for term in terms.values()):
                raise BrokenContractError("a term is not finite where there is no old model")


CHECKS: tuple[Callable[[Callable[[], Method]], None], ...] = (
    terms_are_finite_scalars,
    terms_have_gradient,
    old_system_stays_as_it_is,
    state_is_complete_after_prepare,
    trials_are_reproducible,
    saving_keeps_the_search,
    search_is_well_formed,
    old_version_can_be_trained,
)


def check_method(method: str | type[Method], options: dict[str, Any] | None = None) -> list[str]:
    """Try a method, by name or class, in every situation; return its failures as sentences."""
    sentences = []
    for check in CHECKS:
        sentence = _failure(check, method, options or {})
        if sentence is not None and sentence not in sentences:
            sentences.append(sentence)
    return sentences


def _failure(check: Any, method: str | type[Method], options: dict[str, Any]) -> str | None:
    """Run one check; return the sentence that it fails with."""

    def make() -> Method:
        if isinstance(method, str):
            return registry.make_method(method, options)
        return method(method.Config(**options))

    try:
        with torch.random.fork_rng(devices=[]):
            check(make)
    except (BrokenContractError, BenchError) as broken:
        return str(broken)
    except UnavailableEmbeddingError as error:
        return f"{_place(error)} reads embeddings that do not exist then: {error}"
    except Exception as error:
        return f"{_place(error)} raises {type(error).__name__}: {error}"
    return None


def _place(error: BaseException) -> str:
    """Say which function of the protocol an exception came out of, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    called = [frame for frame in frames if frame.filename != __file__]
    return f"`{called[0].name}` (line {called[0].lineno})" if called else "the trial"


def _gradients(term: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a term into those inputs that it depends on."""
    learning = [tensor for tensor in inputs if tensor.requires_grad]
    if not term.requires_grad or not learning:
        return []
    found = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def _shapes(method: Method) -> dict[str, tuple[int, ...]]:
    named = [*method.named_parameters(), *method.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in named}
