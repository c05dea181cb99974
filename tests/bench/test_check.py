"""The contract suite catches, for each check, a method that breaks it, and says how."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from bench import check, registry
from bench.check import CHECKS, check_method
from bench.errors import BenchError
from bench.protocol import Method


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


class IntoTheOldModel(Sound):
    def loss(self, step):
        return {"term": (self.to_old(step.new) - step._old_model(step.images)).square().mean()}


class TrainsTheOldHead(Sound):
    def prepare(self, context):
        super().prepare(context)
        self.head = nn.Parameter(context.old_head)

    def loss(self, step):
        return {"term": (self.to_old(step.new) @ self.head.T).square().mean()}


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


class MergesIntoOne(Sound):
    @staticmethod
    def merge(old, new):
        return old[:, :1], new


class NeedsAnOldModel(Sound):
    trains_old = True

    def prepare(self, context):
        self.to_old = nn.Linear(context.new_width, context.old_width or 1)
        self.scale = nn.Parameter(torch.ones(()))


class FailsInPrepare(Sound):
    def prepare(self, context):
        raise KeyError("labels")


class RefusesEqualWidths(Sound):
    def prepare(self, context):
        raise BenchError("widths must differ")


BROKEN = {
    NotAScalar: "term 'term' has shape (8,), expected a scalar tensor; average over the batch",
    NotATensor: "term 'term' has 0.5, expected a scalar tensor; average over the batch",
    NotFinite: "term 'term' is nan with no class of the batch known to the old model",
    ChangingNames: "the terms change from ['early'] to ['late'] while training; return a zero for "
    "a term that does not count yet",
    WithoutGradient: "term 'term' has no gradient into the new embedding, the new classifier or "
    "the method's parameters with some classes of the batch known to the old model",
    GradientOfZero: "term 'term' has a gradient of zero in every batch that was tried",
    InfiniteGradient: "the gradient of term 'term' is not finite with some classes of the batch "
    "known to the old model",
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
    MergesIntoOne: "`merge` turns scores of shape (2, 3) into (2, 1); expected one finite score "
    "per item",
    NeedsAnOldModel: "`loss` (line {line}) reads embeddings that do not exist then: there is no "
    "old model here",
    FailsInPrepare: "`prepare` (line {line}) raises KeyError: 'labels'",
    RefusesEqualWidths: "widths must differ",
}


def test_a_sound_method_passes():
    assert check_method(Sound) == []


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_a_broken_method_is_caught_with_the_right_sentence(method):
    found = check_method(method)
    before, _, after = BROKEN[method].partition("{line}")
    assert any(one.startswith(before) and one.endswith(after) for one in found), found


def test_every_check_is_failed_by_some_method():
    failed = set()
    for method in BROKEN:
        failed |= {name for name, sentence in check.examine(method).items() if sentence}
    assert failed == {made.__doc__ for made in CHECKS}


def test_an_error_is_said_once_however_many_checks_meet_it():
    assert len(check_method(FailsInPrepare)) == 1


def test_a_report_times_a_method_that_passes():
    report = check.run("ract")
    assert report.passed
    assert report.cost is not None
    assert report.cost.ratio > 0
    assert report.__rich__().row_count == len(CHECKS) + 1


def test_a_file_that_cannot_be_imported_is_reported(monkeypatch):
    def broken(name):
        raise BenchError(f"{name}.py cannot be imported: SyntaxError: invalid syntax")

    monkeypatch.setattr(registry, "method_class", broken)
    report = check.run("my_idea")
    assert not report.passed
    assert report.cost is None
    assert list(report.found.values()) == [
        "my_idea.py cannot be imported: SyntaxError: invalid syntax"
    ]
