"""The contract suite catches, for each check, a method that breaks it, and says how."""

from __future__ import annotations

import io
import random
from functools import cache
from typing import ClassVar

import mlflow.utils.validation as mlflow_validation
import pytest
import torch
from rich.console import Console
from torch import nn

from bench.authoring import contract
from bench.authoring.contract import CHECKS, check_method
from bench.authoring.toy_upgrade import Trials
from bench.errors import BenchError
from bench.plugins import registry
from bench.protocol import Method
from methods._old_space import ComparesWithOld


class Sound(Method):
    """Breaks nothing: what the broken methods below differ from."""

    def prepare(self, context):
        self.scale = nn.Parameter(torch.ones(()))
        self.to_old = nn.Linear(context.new_width, context.old_width)

    def loss(self, step):
        return {"sound": (self.scale * self.to_old(step.new) - step.old).square().mean()}

    def query(self, view, state):
        return self.to_old(view.new) if state == "old" else view.new


class NotAScalar(Sound):
    def loss(self, step):
        return {"term": step.new.square().sum(1)}


class NotATensor(Sound):
    def loss(self, step):
        return {"term": 0.5}


class NotFinite(Sound):
    """A mean over the known images of a batch that holds none."""

    def loss(self, step):
        return {"term": step.new[step.old_row >= 0].sum(1).mean()}


class ChangingNames(Sound):
    def loss(self, step):
        return {"early" if step.epoch < 10 else "late": step.new.square().mean()}


class UnloggableName(Sound):
    def loss(self, step):
        return {f"{name}": step.new.square().mean() for name in ("good/one two", "a=b")}


class WithoutGradient(Sound):
    def loss(self, step):
        return {"term": (step.new.detach() - 1).square().mean()}


class GradientOfZero(Sound):
    def loss(self, step):
        return {"term": 0 * step.new.sum()}


class InfiniteGradient(Sound):
    """The distance of an embedding to itself has no derivative."""

    def loss(self, step):
        return {"term": (step.new - step.new.detach()).square().sum(1).sqrt().mean()}


class NanWhereModelsAreEqual(Sound):
    """No two embeddings meet in the ordinary situations."""

    def loss(self, step):
        apart = (step.new - step.old[:, :1] * 0 - step.new.roll(1, 0).detach()).square().sum(1)
        return {"term": apart.sqrt().mean() + super().loss(step)["sound"]}


class InfinityFromConstants(Sound):
    trains = False

    def fit(self, bank):
        with torch.no_grad():
            self.to_old.weight.mul_(1 / bank.new.std(0).mean())


class IntoTheOldModel(Sound):
    def loss(self, step):
        return {"term": (self.to_old(step.new) - step._old_model(step.images)).square().mean()}


class TrainsTheOldHead(Sound):
    def prepare(self, context):
        super().prepare(context)
        self.head = nn.Parameter(context.old_head)

    def loss(self, step):
        return {"term": (self.to_old(step.new) @ self.head.T).square().mean()}


class ChangesTheContext(Sound):
    """An edit that a second call does not repeat."""

    def prepare(self, context):
        super().prepare(context)
        context.old_row[context.old_row < 0] = 0


class ChangesTheBatch(Sound):
    def loss(self, step):
        step.labels.clamp_(max=2)
        return super().loss(step)


class ChangesTheBank(Sound):
    def fit(self, bank):
        bank.new.sub_(bank.new.mean(0))


class ChangesTheIndex(Sound):
    def gallery(self, view, state):
        return super().gallery(view, state).mul_(2)


class LateParameter(Sound):
    def loss(self, step):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(step.new.shape[1]))
        return {"term": (self.late * step.new).square().sum()}


class GrowingBuffer(Sound):
    def prepare(self, context):
        super().prepare(context)
        self.register_buffer("seen", torch.empty(0))

    def fit(self, bank):
        self.seen = bank.labels


class Unrepeatable(Sound):
    def loss(self, step):
        return {"term": random.random() * step.new.square().sum(1).sqrt().mean()}


class UnrepeatableFit(Sound):
    def fit(self, bank):
        with torch.no_grad():
            self.to_old.weight.mul_(random.random())


class Seeds(Sound):
    def fit(self, bank):
        torch.manual_seed(7)


class DrawsWhileAsked(Sound):
    def query(self, view, state):
        asked = super().query(view, state)
        return asked + 0.1 * torch.rand_like(asked)


class ForgetsTheCalibration(ComparesWithOld):
    def loss(self, step):
        return {"sound": (self.in_old_space(step.new) - step.old).square().mean()}

    def fit(self, bank):
        pass


class NeverFitted(Sound):
    """A bridge without `fit`."""

    trains = False

    def prepare(self, context):
        super().prepare(context)
        nn.init.zeros_(self.to_old.weight)
        nn.init.zeros_(self.to_old.bias)


class Forgetful(Sound):
    """What it learned is no part of its state."""

    def fit(self, bank):
        self.shift = bank.old.mean(0)

    def query(self, view, state):
        asked = super().query(view, state)
        return asked + getattr(self, "shift", 0) if state == "old" else asked


class OneRowForAll(Sound):
    def query(self, view, state):
        return super().query(view, state).mean(0, keepdim=True)


class NoDirection(Sound):
    def gallery(self, view, state):
        return 0 * super().gallery(view, state)


class WidthsApart(Sound):
    def query(self, view, state):
        return view.new


class ReadsTheFuture(Sound):
    def gallery(self, view, state):
        return view.new


class ReadsThePast(Sound):
    def gallery(self, view, state):
        return view.old


class UncertainAsAWhole(Sound):
    def uncertainty(self, view):
        return view.old.mean()


class UncertainOfTheFuture(Sound):
    def uncertainty(self, view):
        return view.new.mean(1)


class CheaperThanItIs(Sound):
    searches = 1


class CheaperEncodings(Sound):
    query_encodings = 1

    def query(self, view, state):
        return view.old if state == "old" else view.new


class MergesIntoOne(Sound):
    @staticmethod
    def merge(old, new):
        return old[:, :1], new


class BuysHalf(Sound):
    purchases = 0.5


class BuysAndMerges(Sound):
    purchases = 3

    @staticmethod
    def merge(old, new):
        return old, new


class NeedsAnOldModel(Sound):
    trains_old = True

    def prepare(self, context):
        self.to_old = nn.Linear(context.new_width, context.old_width or 1)
        self.scale = nn.Parameter(torch.ones(()))


class FailsInPrepare(Sound):
    def prepare(self, context):
        raise KeyError("labels")


class BreaksOnWidths(Sound):
    """What a new user's first bridge does: compare widths that differ."""

    trains = False

    def query(self, view, state):
        return view.new - view.old


class RefusesTooLate(Sound):
    def loss(self, step):
        if (step.old_row < 0).all():
            raise BenchError("my_idea needs a known class; the batch has none")
        return super().loss(step)


class RefusesEqualWidths(Sound):
    def prepare(self, context):
        raise BenchError("widths must differ")


BROKEN = {
    NotAScalar: "term 'term' has shape (8,), expected a scalar tensor; average over the batch",
    NotATensor: "term 'term' has 0.5, expected a scalar tensor; average over the batch",
    NotFinite: "term 'term' is nan with no class of the batch known to the old model",
    ChangingNames: "the terms change from ['early'] to ['late'] while training; return a zero for "
    "a term that does not count yet",
    UnloggableName: "MLflow takes no loss term named 'a=b'; use letters, digits, underscores, "
    "dashes and dots",
    WithoutGradient: "term 'term' has no gradient into the new embedding, the new classifier or "
    "the method's parameters with some classes of the batch known to the old model",
    GradientOfZero: "term 'term' has a gradient of zero in every batch that was tried",
    InfiniteGradient: "the gradient of term 'term' is not finite with some classes of the batch "
    "known to the old model",
    NanWhereModelsAreEqual: "the gradient of term 'term' is not finite with a batch of one image "
    "of a known class",
    InfinityFromConstants: "after `fit` the query old embeddings are not finite with two models "
    "that embed all images alike",
    ChangesTheContext: "`prepare` changes `old_row`, which it is given, in place; change a copy",
    ChangesTheBatch: "`loss` changes `labels`, which it is given, in place; change a copy",
    ChangesTheBank: "`fit` changes `new`, which it is given, in place; change a copy",
    ChangesTheIndex: "`gallery` changes `old`, which it is given, in place; change a copy",
    Seeds: "the method seeds torch's generator, which decides all that is trained; draw from it as "
    "it is",
    DrawsWhileAsked: "two searches by one method give different embeddings; draw nothing at random "
    "in `query` and `gallery`, and learn nothing there",
    ForgetsTheCalibration: "`fit` does not call that of Calibrated, which `merge` needs; end it "
    "with `super().fit(bank)` with the new embedding wider than the old one",
    NeverFitted: "the query old embeddings hold a row that is zero or not finite, which has no "
    "direction to compare",
    IntoTheOldModel: "term 'term' sends a gradient into the old model; read `step.old`, which is "
    "detached",
    TrainsTheOldHead: "training changes the old classifier or the old embeddings; clone what "
    "`prepare` takes from the context into a parameter",
    LateParameter: "'late' is missing after `prepare` and (8,) later; create every parameter and "
    "buffer, with its final shape, in `prepare`",
    GrowingBuffer: "'seen' is (0,) after `prepare` and (30,) later; create every parameter and "
    "buffer, with its final shape, in `prepare`",
    Unrepeatable: "two trials with the same seed give different losses; draw random numbers from "
    "torch's generator only",
    UnrepeatableFit: "two trials with the same seed give different search embeddings; draw random "
    "numbers from torch's generator only",
    Forgetful: "the query old embeddings differ after saving and loading; keep what `loss` or "
    "`fit` learns in parameters or persistent buffers",
    OneRowForAll: "the query old embeddings of 7 items have shape (1, 8); expected one row per "
    "item",
    NoDirection: "the gallery old embeddings hold a row that is zero or not finite, which has no "
    "direction to compare",
    WidthsApart: "for state 'old' the query is 8 wide and the gallery 6 with the new embedding "
    "wider than the old one",
    ReadsTheFuture: "`gallery` (line {line}) reads embeddings that do not exist then: the new "
    "embeddings do not exist yet: these items are not backfilled",
    ReadsThePast: "`gallery` (line {line}) reads embeddings that do not exist then: the old "
    "embeddings are not stored: these items are backfilled",
    UncertainAsAWhole: "the uncertainty of 7 items has shape (); expected one finite number per "
    "item",
    UncertainOfTheFuture: "`uncertainty` (line {line}) reads embeddings that do not exist then: "
    "the new embeddings do not exist yet: these items are not backfilled",
    CheaperThanItIs: "`searches` is 1, but `query` takes 2 while old and new items are there; "
    "declare searches = 2 in the class, or in `prepare` where it depends on widths",
    CheaperEncodings: "`query_encodings` is 1, but `query` takes 2 while old and new items are "
    "there; declare query_encodings = 2 in the class, or in `prepare` where it depends on widths",
    MergesIntoOne: "`merge` turns scores of shape (2, 3) into (2, 1); expected one finite score "
    "per item",
    BuysHalf: "`purchases` is 0.5; expected a number of items, 0 for none",
    BuysAndMerges: "the method merges and buys; a bought item has a new score, which is not "
    "merged: declare one of the two",
    NeedsAnOldModel: "`loss` (line {line}) reads embeddings that do not exist then: there is no "
    "old model here",
    FailsInPrepare: "`prepare` (line {line}) raises KeyError: 'labels'",
    BreaksOnWidths: "`query` (line {line}) raises RuntimeError: The size of tensor a (8) must "
    "match the size of tensor b (6) at non-singleton dimension 1 with the new embedding wider than "
    "the old one; map one width to the other, or refuse widths that differ in `prepare`",
    RefusesTooLate: "`loss` (line {line}) refuses what only `prepare` may refuse: my_idea needs a "
    "known class; the batch has none with no class of the batch known to the old model",
    RefusesEqualWidths: "widths must differ",
}


@cache
def examined(method):
    return contract.examine(method)


def test_a_sound_method_passes():
    assert check_method(Sound) == []


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_a_broken_method_is_caught_with_the_right_sentence(method):
    found = [sentence for sentence in examined(method).values() if sentence]
    before, _, after = BROKEN[method].partition("{line}")
    assert any(one.startswith(before) and one.endswith(after) for one in found), found


def test_every_check_is_failed_by_some_method():
    failed = set()
    for method in BROKEN:
        failed |= {name for name, sentence in examined(method).items() if sentence}
    assert failed == {made.__doc__ for made in CHECKS}


def test_an_error_is_said_once_however_many_checks_meet_it():
    assert len(check_method(FailsInPrepare)) == 1


class RefusesTheWidths(Sound):
    """A refusal that is allowed, and another that is."""

    def prepare(self, context):
        super().prepare(context)
        if context.old_width != context.new_width:
            raise BenchError(f"needs one width, not {context.old_width} and {context.new_width}")
        if (context.old_row < 0).all():
            raise BenchError("needs a class that the old model knows")


def shown(report):
    console = Console(width=400, file=io.StringIO())
    console.print(report)
    return console.file.getvalue()


def report_of(method, monkeypatch):
    monkeypatch.setattr(registry, "method_class", lambda name: method)
    return contract.run("my_idea")


def test_a_refusal_is_reported_as_a_refusal(monkeypatch):
    report = report_of(RefusesTheWidths, monkeypatch)
    assert report.passed
    assert report.faults == []
    text = shown(report)
    assert "⊘  Refuses no class at all known to the old model: needs a class that the old" in text
    assert "Refuses the new embedding wider than the old one: needs one width, not 6 and 8" in text
    assert (
        "Refuses the new embedding narrower than the old one: needs one width, not 8 and 6" in text
    )
    assert "✗" not in text
    assert set(report.refused) == {
        "no class at all known to the old model",
        "the new embedding wider than the old one",
        "the new embedding narrower than the old one",
    }


def test_a_refusal_of_the_ordinary_upgrade_is_a_failure(monkeypatch):
    report = report_of(RefusesEqualWidths, monkeypatch)
    assert report.faults == ["widths must differ"]
    assert not report.passed


def test_a_fault_that_many_checks_meet_is_shown_once(monkeypatch):
    text = shown(report_of(BreaksOnWidths, monkeypatch))
    assert text.count("The size of tensor a (8) must match") == 1
    assert text.count("✗") == 1
    assert text.count("Not known: the same happens.") >= 2


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b:c-d", "überlapp", "x" * 245])
def test_names_that_mlflow_takes_are_taken(name):
    contract.terms_have_names_that_mlflow_takes(trials_of(named(name)))
    mlflow_validation._validate_metric_name(f"loss_{name}")


@pytest.mark.parametrize("name", ["", "a//b", "a/../b", "a,b", "τ=1", "a\nb", "x" * 246, 3, "a/"])
def test_names_that_mlflow_does_not_take_are_refused(name):
    with pytest.raises(contract.BrokenContractError) as found:
        contract.terms_have_names_that_mlflow_takes(trials_of(named(name)))
    assert str(found.value).startswith(f"MLflow takes no loss term named {name!r}")


def trials_of(method):
    return Trials(lambda: method(method.Config()))


def named(name):
    class Named(Sound):
        def loss(self, step):
            return {name: super().loss(step)["sound"]}

    return Named


def test_a_report_times_a_method_that_passes():
    report = contract.run("ract")
    assert report.passed
    assert report.cost is not None
    assert report.cost.ratio > 0
    assert report.__rich__().row_count == len(CHECKS) + 1


def test_a_file_that_cannot_be_imported_is_reported(monkeypatch):
    def broken(name):
        raise BenchError(f"{name}.py cannot be imported: SyntaxError: invalid syntax")

    monkeypatch.setattr(registry, "method_class", broken)
    report = contract.run("my_idea")
    assert not report.passed
    assert report.cost is None
    assert list(report.found.values()) == [
        "my_idea.py cannot be imported: SyntaxError: invalid syntax"
    ]


class Counts(Sound):
    """Keeps with which settings it was made."""

    quick: ClassVar = {"epochs": 2, "units": 3}
    made: ClassVar[set[tuple[int, int]]] = set()

    class Config(Sound.Config):
        epochs: int = 50
        units: int = 2000

    def prepare(self, context):
        super().prepare(context)
        self.made.add((self.config.epochs, self.config.units))


@pytest.mark.parametrize(
    ("chosen", "made", "told"),
    [
        ({}, (2, 3), "Tried with epochs=2, units=3, which fit quickly."),
        ({"units": 7}, (2, 7), "Tried with epochs=2, which fit quickly."),
        ({"units": 7, "epochs": 9}, (9, 7), None),
    ],
)
def test_a_method_is_tried_with_its_quick_settings_and_what_a_person_sets(
    chosen, made, told, monkeypatch
):
    Counts.made.clear()
    monkeypatch.setattr(registry, "method_class", lambda name: Counts)
    monkeypatch.setattr(contract, "step_cost", lambda method: None)
    report = contract.run("my_idea", chosen)
    assert Counts.made == {made}
    text = io.StringIO()
    Console(file=text, width=200).print(report)
    assert ("which fit quickly" in text.getvalue()) == (told is not None)
    assert told is None or told in text.getvalue()
