"""The contract that every method keeps: a list of checks, and what a method's author is told.

A check passes silently or raises `BrokenContractError`, whose message is one sentence.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from bench import registry
from bench.errors import BenchError
from bench.protocol import Method, UnavailableEmbeddingError
from bench.step_cost import Cost, step_cost
from bench.trial import FIRST_VERSION, ITEMS, STATES, Trials, Upgrade


class BrokenContractError(Exception):
    """A method breaks the contract; the message says how, in one sentence."""


def terms_are_finite_scalars(trials: Trials) -> None:
    """Every loss term is one finite number."""
    for upgrade, _, terms in trials.steps():
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.shape != ():
                found = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else repr(term)
                raise BrokenContractError(
                    f"term '{name}' has {found}, expected a scalar tensor; average over the batch"
                )
            if not torch.isfinite(term):
                raise BrokenContractError(
                    f"term '{name}' is {term.item()} with {upgrade.situation.name}"
                )


def terms_keep_their_names(trials: Trials) -> None:
    """The same terms come back at every step of a training."""
    expected: dict[Upgrade, set[str]] = {}
    for upgrade, _, terms in trials.steps():
        before = expected.setdefault(upgrade, set(terms))
        if before != set(terms):
            raise BrokenContractError(
                f"the terms change from {sorted(before)} to {sorted(terms)} while training; "
                "return a zero for a term that does not count yet"
            )


def terms_have_gradient(trials: Trials) -> None:
    """Every term reaches the new embedding, the new classifier or the method's parameters."""
    largest: dict[str, float] = {}
    for upgrade, step, terms in trials.steps():
        learning = [step.new, step.new_head, *upgrade.method.parameters()]
        for name, term in terms.items():
            reached = _gradients(term, learning)
            if not reached:
                raise BrokenContractError(
                    f"term '{name}' has no gradient into the new embedding, the new classifier or "
                    f"the method's parameters with {upgrade.situation.name}"
                )
            size = max(gradient.abs().max().item() for gradient in reached)
            largest[name] = max(largest.get(name, 0.0), size)
    for name, size in largest.items():
        if size == 0:
            raise BrokenContractError(
                f"term '{name}' has a gradient of zero in every batch that was tried"
            )


def gradients_are_finite(trials: Trials) -> None:
    """No gradient of any term is NaN or infinite."""
    for upgrade, step, terms in trials.steps():
        learning = [step.new, step.new_head, *upgrade.method.parameters()]
        for name, term in terms.items():
            if not all(gradient.isfinite().all() for gradient in _gradients(term, learning)):
                raise BrokenContractError(
                    f"the gradient of term '{name}' is not finite with {upgrade.situation.name}"
                )


def old_system_stays_as_it_is(trials: Trials) -> None:
    """No gradient enters the old model, and training changes neither old head nor embeddings."""
    before: dict[Upgrade, list[Tensor]] = {}
    for upgrade, _, terms in trials.steps():
        old = [upgrade.context.old_head, upgrade.context.old_embeddings]
        kept = before.setdefault(upgrade, [tensor.detach().clone() for tensor in old])
        if not all(torch.equal(*pair) for pair in zip(old, kept, strict=True)):
            raise BrokenContractError(
                "training changes the old classifier or the old embeddings; clone what `prepare` "
                "takes from the context into a parameter"
            )
        for name, term in terms.items():
            if _gradients(term, list(upgrade.old_model.parameters())):
                raise BrokenContractError(
                    f"term '{name}' sends a gradient into the old model; read `step.old`, which "
                    "is detached"
                )


def state_is_complete_after_prepare(trials: Trials) -> None:
    """No parameter or buffer appears, vanishes or changes shape after `prepare`."""
    for finished in trials.finished:
        before, after = finished.shapes_before, finished.shapes_after
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        if changed:
            raise BrokenContractError(
                f"'{changed[0]}' is {before.get(changed[0], 'missing')} after `prepare` and "
                f"{after.get(changed[0], 'missing')} later; create every parameter and buffer, "
                "with its final shape, in `prepare`"
            )


def trials_are_reproducible(trials: Trials) -> None:
    """The same seed gives the same losses and the same search, to the last bit."""
    first = trials.finished[0]
    again = Upgrade(trials.make, first.upgrade.situation)
    losses, search = again.finish(), again.search(again.method)
    for subject, one, other in (
        ("losses", first.losses, losses),
        ("search embeddings", list(first.search.values()), list(search.values())),
    ):
        if not all(torch.equal(*pair) for pair in zip(one, other, strict=True)):
            raise BrokenContractError(
                f"two trials with the same seed give different {subject}; draw random numbers "
                "from torch's generator only"
            )


def saving_keeps_the_search(trials: Trials) -> None:
    """A freshly prepared method that loads the saved state searches exactly as before."""
    for finished in trials.finished:
        loaded = finished.upgrade.prepared(seed=1)
        loaded.load_state_dict(finished.upgrade.method.state_dict())
        for name, found in finished.upgrade.search(loaded).items():
            if not torch.equal(found, finished.search[name]):
                raise BrokenContractError(
                    f"the {name} embeddings differ after saving and loading; keep what `loss` or "
                    "`fit` learns in parameters or persistent buffers"
                )


def search_is_well_formed(trials: Trials) -> None:
    """Query and gallery of a state have one width, and one usable row per item."""
    for finished in trials.finished:
        for name, embeddings in finished.search.items():
            if embeddings.ndim != 2 or len(embeddings) != ITEMS:
                raise BrokenContractError(
                    f"the {name} embeddings of {ITEMS} items have shape "
                    f"{tuple(embeddings.shape)}; expected one row per item"
                )
            if not embeddings.isfinite().all() or not embeddings.any(1).all():
                raise BrokenContractError(
                    f"the {name} embeddings hold a row that is zero or not finite, which has no "
                    "direction to compare"
                )
        for state in STATES:
            query, gallery = (
                finished.search[f"{role} {state}"].shape[1] for role in ("query", "gallery")
            )
            if query != gallery:
                raise BrokenContractError(
                    f"for state '{state}' the query is {query} wide and the gallery {gallery} with "
                    f"{finished.upgrade.situation.name}"
                )


def uncertainty_is_one_number_per_item(trials: Trials) -> None:
    """A method's own backfill order reads old embeddings only, one finite number per item."""
    for finished in trials.finished:
        with torch.no_grad():
            found = finished.upgrade.method.uncertainty(finished.upgrade.view("old"))
        if found is not None and (found.shape != (ITEMS,) or not found.isfinite().all()):
            raise BrokenContractError(
                f"the uncertainty of {ITEMS} items has shape {tuple(found.shape)}; expected one "
                "finite number per item"
            )


def merging_keeps_the_shapes(trials: Trials) -> None:
    """A merge gives each item of both searches one finite score, also where one is empty."""
    merge = trials.make().merge
    for old_count in (0, 3, ITEMS) if merge is not None else ():
        scores = torch.linspace(-1, 1, 2 * ITEMS).reshape(2, ITEMS)
        given = scores[:, :old_count], scores[:, old_count:]
        for before, after in zip(given, merge(*given), strict=True):
            if after.shape != before.shape or not after.isfinite().all():
                raise BrokenContractError(
                    f"`merge` turns scores of shape {tuple(before.shape)} into "
                    f"{tuple(after.shape)}; expected one finite score per item"
                )


def first_version_can_be_trained(trials: Trials) -> None:
    """A method that trains the old model too works where there is no older one."""
    if trials.make().trains_old:
        for _, terms in Upgrade(trials.make, FIRST_VERSION).losses():
            if not all(torch.isfinite(term) for term in terms.values()):
                raise BrokenContractError("a term is not finite where there is no old model")


CHECKS: tuple[Callable[[Trials], None], ...] = (
    terms_are_finite_scalars,
    terms_keep_their_names,
    terms_have_gradient,
    gradients_are_finite,
    old_system_stays_as_it_is,
    state_is_complete_after_prepare,
    trials_are_reproducible,
    saving_keeps_the_search,
    search_is_well_formed,
    uncertainty_is_one_number_per_item,
    merging_keeps_the_shapes,
    first_version_can_be_trained,
)


@dataclass(frozen=True)
class Report:
    """What each check found (None: passed), and the cost of a training step where one was run."""

    name: str
    found: dict[str, str | None]
    cost: Cost | None

    @property
    def passed(self) -> bool:
        return not any(self.found.values())

    def __rich__(self) -> Table:
        table = Table(title=self.name, title_justify="left", box=None, show_header=False)
        for check, sentence in self.found.items():
            table.add_row("[red]✗[/]" if sentence else "[green]✓[/]", escape(check))
            if sentence:
                table.add_row("", f"[red]{escape(sentence)}[/]")
        if self.cost is not None:
            table.add_row("⏱", escape(str(self.cost)))
        return table


def run(name: str, options: dict[str, Any] | None = None) -> Report:
    """Check a method by name and, when it passes, time its training step.

    A file that cannot be imported is a report whose one failure is the reason.
    """
    try:
        method = registry.method_class(name)
    except BenchError as error:
        return Report(name, {"The file can be imported.": str(error)}, None)
    found = examine(method, options)
    cost = None if any(found.values()) else step_cost(method)
    return Report(name, found, cost)


def check_method(method: str | type[Method], options: dict[str, Any] | None = None) -> list[str]:
    """Try a method, by name or class, in every situation; return its failures as sentences."""
    chosen = registry.method_class(method) if isinstance(method, str) else method
    return list(dict.fromkeys(found for found in examine(chosen, options).values() if found))


def examine(method: type[Method], options: dict[str, Any] | None = None) -> dict[str, str | None]:
    """Run every check; tell for each, by its description, the sentence that it fails with."""
    trials = Trials(lambda: method(method.Config(**(options or {}))))
    folder = Path(inspect.getfile(method)).parent
    return {str(check.__doc__): _failure(check, trials, folder) for check in CHECKS}


def _failure(check: Callable[[Trials], None], trials: Trials, folder: Path) -> str | None:
    """Run a check; an exception is told with the function of a method in `folder` that met it."""
    try:
        with torch.random.fork_rng(devices=[]):
            check(trials)
    except (BrokenContractError, BenchError) as broken:
        return str(broken)
    except UnavailableEmbeddingError as error:
        return f"{_place(error, folder)} reads embeddings that do not exist then: {error}"
    except Exception as error:
        return f"{_place(error, folder)} raises {type(error).__name__}: {error}"
    return None


def _place(error: BaseException, folder: Path) -> str:
    """Say which function of the protocol, as written in `folder`, an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent == folder]
    return f"`{own[0].name}` (line {own[0].lineno})" if own else "the trial"


def _gradients(term: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a term into those inputs that it depends on."""
    learning = [tensor for tensor in inputs if tensor.requires_grad]
    if not term.requires_grad or not learning:
        return []
    found = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]
