"""The contract that every method keeps: a list of checks, and what a method's author is told.

A check passes silently or raises `BrokenContractError`, whose message is one sentence.
"""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.table import Table
from torch import Tensor

from bench.authoring.pretended import GPU, on_gpu, pretended_gpu
from bench.authoring.toy_upgrade import (
    FIRST_VERSION,
    HARD,
    ITEMS,
    MOMENTS,
    SITUATIONS,
    STATES,
    Trials,
    Upgrade,
)
from bench.costs.step import Cost, step_cost
from bench.errors import BenchError
from bench.evaluation.serving import watch
from bench.output.texts import told
from bench.plugins import registry
from bench.protocol import Method, UnavailableEmbeddingError


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


def terms_have_names_that_mlflow_takes(trials: Trials) -> None:
    """Every term can be logged under its name."""
    from mlflow.utils import validation as rules

    for name in dict.fromkeys(name for _, _, terms in trials.steps() for name in terms):
        metric = f"loss_{name}"
        if (
            not isinstance(name, str)
            or not name
            or not rules.validate_param_and_metric_name(metric)  # type: ignore[no-untyped-call]
            or rules.path_not_unique(metric)  # type: ignore[no-untyped-call]
            or len(metric) > rules.MAX_ENTITY_KEY_LENGTH
        ):
            raise BrokenContractError(
                f"MLflow takes no loss term named {name!r}; use letters, digits, underscores, "
                "dashes and dots"
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


def little_to_learn_from_gives_no_nan(trials: Trials) -> None:
    """Terms, gradients and what is fitted stay finite where embeddings say little or nothing."""
    trials.ordinary()
    for upgrade in trials.upgrades(HARD):
        where, method = upgrade.situation.name, upgrade.method.train()
        for moment in MOMENTS if method.trains else ():
            step = upgrade.step(moment)
            learning = [step.new, step.new_head, *method.parameters()]
            for name, term in method.loss(step).items():
                if not term.isfinite().all():
                    raise BrokenContractError(f"term '{name}' is {term.item()} with {where}")
                if not all(gradient.isfinite().all() for gradient in _gradients(term, learning)):
                    raise BrokenContractError(
                        f"the gradient of term '{name}' is not finite with {where}"
                    )
        upgrade.fit()
        for name, embeddings in upgrade.search(method).items():
            if not embeddings.isfinite().all():
                raise BrokenContractError(
                    f"after `fit` the {name} embeddings are not finite with {where}"
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


def what_is_given_stays_as_it_is(trials: Trials) -> None:
    """No function changes the tensors that it is given."""
    trials.ordinary()
    for upgrade in trials.upgrades():
        context, method = vars(upgrade.context), upgrade.method
        with _untouched("prepare", context, vars(_idle(upgrade).context)):
            pass
        if method.trains:
            step = upgrade.step()
            given = {name: getattr(step, name) for name in ("images", "rows", "labels", "new")}
            given |= {"new_head": step.new_head}
            if upgrade.situation.old_width and type(method).needs_old:
                given["old"] = step.old
            with _untouched("loss", given), _untouched("loss", context):
                method.loss(step)
        bank = upgrade.bank()
        with _untouched("fit", vars(bank)), _untouched("fit", context):
            method.fit(bank)
        for name, state, ages in (
            ("query", "old", STATES),
            ("query", "new", STATES),
            ("gallery", "old", ("old",)),
            ("gallery", "new", ("new",)),
        ):
            view = upgrade.view(*ages)
            given = {age: getattr(view, age) for age in ages}
            with torch.no_grad(), _untouched(name, given):
                getattr(method.eval(), name)(view, state)
        view = upgrade.view("old")
        with torch.no_grad(), _untouched("uncertainty", {"old": view.old}):
            method.uncertainty(view)


def _idle(upgrade: Upgrade) -> Upgrade:
    """Set the same situation up for a method that does nothing."""
    width = type(upgrade.method).extra_width
    return Upgrade(type("Idle", (Method,), {"extra_width": width}), upgrade.situation)


@contextmanager
def _untouched(
    function: str, given: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Say so if `function` leaves a given tensor otherwise than it was, or was `before`."""
    kept = {
        name: value.detach().clone()
        for name, value in (before or given).items()
        if isinstance(value, Tensor)
    }
    yield
    for name, value in kept.items():
        if not torch.equal(value, given[name]):
            raise BrokenContractError(
                f"`{function}` changes `{name}`, which it is given, in place; change a copy"
            )


def state_is_complete_after_prepare(trials: Trials) -> None:
    """No parameter or buffer appears, vanishes or changes shape after `prepare`."""
    for finished in trials.finished():
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
    first = next(trials.finished())
    again, seed = Upgrade(trials.make, first.upgrade.situation), torch.initial_seed()
    losses, search = again.finish(), again.search(again.method)
    if torch.initial_seed() != seed:
        raise BrokenContractError(
            "the method seeds torch's generator, which decides all that is trained; draw from it "
            "as it is"
        )
    repeated = again.search(again.method)
    if not all(torch.equal(search[name], repeated[name]) for name in search):
        raise BrokenContractError(
            "two searches by one method give different embeddings; draw nothing at random in "
            "`query` and `gallery`, and learn nothing there"
        )
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
    for finished in trials.finished():
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
    for finished in trials.finished():
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
                    f"for state '{state}' the query is {query} wide and the gallery {gallery}"
                )


def uncertainty_is_one_number_per_item(trials: Trials) -> None:
    """A method's own backfill order reads old embeddings only, one finite number per item."""
    for finished in trials.finished():
        with torch.no_grad():
            found = finished.upgrade.method.uncertainty(finished.upgrade.view("old"))
        if found is not None and (found.shape != (ITEMS,) or not found.isfinite().all()):
            raise BrokenContractError(
                f"the uncertainty of {ITEMS} items has shape {tuple(found.shape)}; expected one "
                "finite number per item"
            )


def declared_costs_are_those_seen(trials: Trials) -> None:
    """A query is embedded and searched as often as the method declares."""
    for finished in trials.finished():
        method, view = finished.upgrade.method, finished.upgrade.view("old", "new")
        seen = watch(method, view.old, view.new)
        for name, found in (("query_encodings", seen.encodings), ("searches", seen.searches)):
            declared = getattr(method, name)
            if declared not in (None, found):
                raise BrokenContractError(
                    f"`{name}` is {declared}, but `query` takes {found} while old and "
                    f"new items are there; declare {name} = {found} in the class, or in `prepare` "
                    "where it depends on widths"
                )


def merging_keeps_the_shapes(trials: Trials) -> None:
    """A merge gives each item of both searches one finite score, also where one is empty."""
    for finished in trials.finished():
        merge = finished.upgrade.method.merge
        if merge is not None:
            _merges_well(merge)


def merging_is_fitted(trials: Trials) -> None:
    """Where a method inherits a fitted merge, its own `fit` calls the one that it overrides."""
    trials.ordinary()
    for upgrade in trials.upgrades():
        method = upgrade.method
        owner: Any = next(base for base in type(method).__mro__ if "merge" in vars(base))
        own = next(base for base in type(method).__mro__ if "fit" in vars(base))
        if "fit" not in vars(owner) or own is owner or method.merge is None:
            continue
        with patch.object(owner, "fit", autospec=True, side_effect=owner.fit) as called:
            upgrade.fit()
        if not called.called:
            raise BrokenContractError(
                f"`fit` does not call that of {owner.__name__}, which `merge` needs; end it with "
                "`super().fit(bank)`"
            )


def _merges_well(merge: Any) -> None:
    for old_count in (0, 3, ITEMS):
        scores = torch.linspace(-1, 1, 2 * ITEMS).reshape(2, ITEMS)
        given = scores[:, :old_count], scores[:, old_count:]
        for before, after in zip(given, merge(*given), strict=True):
            if after.shape != before.shape or not after.isfinite().all():
                raise BrokenContractError(
                    f"`merge` turns scores of shape {tuple(before.shape)} into "
                    f"{tuple(after.shape)}; expected one finite score per item"
                )


def purchases_are_a_number_and_replace_merging(trials: Trials) -> None:
    """What a method buys for each query is a number of items, and it does not merge as well."""
    method = trials.make()
    if not isinstance(method.purchases, int) or method.purchases < 0:
        raise BrokenContractError(
            f"`purchases` is {method.purchases!r}; expected a number of items, 0 for none"
        )
    merging = any(finished.upgrade.method.merge is not None for finished in trials.finished())
    if method.purchases and merging:
        raise BrokenContractError(
            "the method merges and buys; a bought item has a new score, which is not merged: "
            "declare one of the two"
        )


def first_version_can_be_trained(trials: Trials) -> None:
    """A method that trains the old model too works where there is no older one."""
    if trials.make().trains_old:
        for _, terms in Upgrade(trials.make, FIRST_VERSION).losses():
            if not all(torch.isfinite(term) for term in terms.values()):
                raise BrokenContractError("a term is not finite where there is no old model")


def works_on_a_gpu(trials: Trials) -> None:
    """Everything that a method is given and makes stays on the device of its context."""
    with pretended_gpu() as waits:
        for situation in ON_GPU:
            trials.situation = situation
            try:
                upgrade = Upgrade(trials.make, situation, device=GPU)
            except BenchError:
                continue  # widths that `prepare` refuses
            _try_on_gpu(upgrade, waits)


def _try_on_gpu(upgrade: Upgrade, waits: Counter[str]) -> None:
    """Train, fit, search and merge on the pretended GPU."""
    before = upgrade.step()
    waits.clear()
    if upgrade.method.trains:
        terms = upgrade.method.loss(before)
        for name, term in terms.items():
            if not on_gpu(term):
                raise BrokenContractError(f"term '{name}' is on the CPU while training on a GPU")
    if (waited := sum(waits.values())) > WAITS:
        told = ", ".join(f"{count} × {what}" for what, count in waits.most_common(3))
        raise BrokenContractError(
            f"a training step waits {waited} times for the GPU ({told}); at most {WAITS}: leave "
            "numbers on the device, and create tensors with `device=`"
        )
    config = upgrade.method.config
    if "epochs" in type(config).model_fields:  # one pass of a fit shows what lies where
        upgrade.method.config = config.model_copy(update={"epochs": 1})
    upgrade.finish()
    with torch.no_grad():
        found: dict[str, Tensor | None] = dict(upgrade.search(upgrade.method))
        found["uncertainty"] = upgrade.method.uncertainty(upgrade.view("old"))
    away = [name for name, tensor in found.items() if tensor is not None and not on_gpu(tensor)]
    if away:
        raise BrokenContractError(f"the {away[0]} embeddings lie on the CPU; those given do not")
    if upgrade.method.merge is not None:
        scores = torch.linspace(-1, 1, 2 * ITEMS, device=GPU).view(2, -1)
        upgrade.method.merge(scores[:, :3], scores[:, 3:])


CHECKS: tuple[Callable[[Trials], None], ...] = (
    terms_are_finite_scalars,
    terms_have_names_that_mlflow_takes,
    terms_keep_their_names,
    terms_have_gradient,
    gradients_are_finite,
    old_system_stays_as_it_is,
    state_is_complete_after_prepare,
    trials_are_reproducible,
    saving_keeps_the_search,
    search_is_well_formed,
    uncertainty_is_one_number_per_item,
    declared_costs_are_those_seen,
    merging_keeps_the_shapes,
    merging_is_fitted,
    purchases_are_a_number_and_replace_merging,
    first_version_can_be_trained,
    what_is_given_stays_as_it_is,
    little_to_learn_from_gives_no_nan,
    works_on_a_gpu,
)
# Those that differ in what meets: some classes unknown, all of them, and unequal widths.
ON_GPU = tuple(SITUATIONS[place] for place in (0, 3, 9, 10))
WIDTHS_APART = "; map one width to the other, or refuse widths that differ in `prepare`"
WAITS = 4  # of a training step for a GPU, which stands idle meanwhile


@dataclass(frozen=True)
class Report:
    """What each check found (None: passed), and the cost of a training step where one was run.

    `refused` says, by situation, why the method refuses it: no failure, as `prepare` may do so.
    `quick` holds the settings that stood in for those of a whole fit.
    """

    name: str
    found: dict[str, str | None]
    cost: Cost | None
    refused: dict[str, str] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """What was found, once where several checks met the same."""
        return list(dict.fromkeys(filter(None, self.found.values())))

    def __rich__(self) -> Table:
        table = Table(title=self.name, title_justify="left", box=None, show_header=False)
        met = set[str]()
        for check, sentence in self.found.items():
            mark = "[green]✓[/]" if sentence is None else "[red]✗[/]"
            if sentence in met:
                table.add_row("–", f"{told(check)} Not known: the same happens.")
                continue
            table.add_row(mark, told(check))
            if sentence:
                table.add_row("", f"[red]{told(sentence)}[/]")
                met.add(sentence)
        for reason, situations in self._refusals().items():
            table.add_row("⊘", f"Refuses {told('; '.join(situations))}: {told(reason)}")
        if self.quick:
            settings = ", ".join(f"{key}={value}" for key, value in self.quick.items())
            table.add_row("", told(f"Tried with {settings}, which fit quickly."))
        if self.cost is not None:
            table.add_row("⏱", told(str(self.cost)))
        return table

    def _refusals(self) -> dict[str, list[str]]:
        """Situations that are refused, by the reason."""
        found: dict[str, list[str]] = {}
        for situation, reason in self.refused.items():
            found.setdefault(reason, []).append(situation)
        return found


def run(name: str, options: dict[str, Any] | None = None) -> Report:
    """Check a method by name and, when it passes, time its training step.

    A file that cannot be imported is a report whose one failure is the reason.
    """
    try:
        method = registry.method_class(name)
    except BenchError as error:
        return Report(name, {"The file can be imported.": str(error)}, None)
    found, refused = _examined(method, options)
    cost = None if any(found.values()) else step_cost(method)
    quick = {key: each for key, each in method.quick.items() if key not in (options or {})}
    return Report(name, found, cost, refused, quick)


def check_method(method: str | type[Method], options: dict[str, Any] | None = None) -> list[str]:
    """Try a method, by name or class, in every situation; return its failures as sentences.

    `options` are its settings, beside those that make it `quick`.
    """
    chosen = registry.method_class(method) if isinstance(method, str) else method
    return list(dict.fromkeys(found for found in examine(chosen, options).values() if found))


def examine(method: type[Method], options: dict[str, Any] | None = None) -> dict[str, str | None]:
    """Run every check; tell for each, by its description, the sentence that it fails with."""
    return _examined(method, options)[0]


def _examined(
    method: type[Method], options: dict[str, Any] | None
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return what every check found, and what the method refuses, by situation."""
    chosen = {**method.quick, **(options or {})}
    trials = Trials(lambda: method(method.Config(**chosen)))
    folder = Path(inspect.getfile(method)).parent
    found = {str(check.__doc__): _failure(check, trials, folder) for check in CHECKS}
    return found, trials.refused


def _failure(check: Callable[[Trials], None], trials: Trials, folder: Path) -> str | None:
    """Run a check; say what it fails with, and in which situation unless in the ordinary one.

    An exception is told with the function of a method in `folder` that met it.
    """
    trials.situation = None
    try:
        with torch.random.fork_rng(devices=[]):
            check(trials)
    except Exception as error:
        sentence, met = _sentence(error, trials, folder), trials.situation
        if met is None or met is SITUATIONS[0] or met.name in sentence:
            return sentence
        apart = isinstance(error, RuntimeError) and met.old_width != met.new_width
        return f"{sentence} with {met.name}{WIDTHS_APART if apart else ''}"
    return None


def _sentence(error: Exception, trials: Trials, folder: Path) -> str:
    """State what an error is about: a rule that is broken, a refusal, or an exception."""
    if isinstance(error, BrokenContractError) or str(error) in trials.refused.values():
        return str(error)
    place = _place(error, folder)
    if isinstance(error, BenchError):
        return f"{place} refuses what only `prepare` may refuse: {error}"
    if isinstance(error, UnavailableEmbeddingError):
        return f"{place} reads embeddings that do not exist then: {error}"
    return f"{place} raises {type(error).__name__}: {error}"


def _place(error: BaseException, folder: Path) -> str:
    """State which function of the protocol, as written in `folder`, an exception came through."""
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
