"""A training that is cut off after any epoch ends with the weights of one that never was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from bench.plugins.registry import discover, make_method
from bench.training.checkpoint import Checkpoint
from bench.training.loop import train
from bench.training.models import make_embedder
from tests.bench.toys import RECIPE, images, make_task, whole, with_old_context

RECIPE3 = RECIPE.model_copy(update={"epochs": 3})
TRAINED = sorted(name for name in discover("methods") if type(make_method(name)).trains)


class CutError(Exception):
    """The process dies here."""


def fit(method, checkpoint=None, cut_after=None):
    image_set = images()
    subset, old = whole(image_set), make_embedder(RECIPE3, 9).eval().requires_grad_(False)
    context = with_old_context(subset, old, image_set, RECIPE3)
    labels = torch.arange(context.class_count)
    context = replace(context, class_ids=labels, dataset_classes=len(labels))
    if method.needs_independent:
        context = replace(
            context,
            independent_embeddings=context.old_embeddings.flip(0),
            independent_head=context.old_head.flip(0),
        )
    torch.manual_seed(3)
    task = make_task(method, context, RECIPE3)
    torch.manual_seed(0)

    def report(done, total):
        if done == cut_after:
            raise CutError

    fabric = Fabric(accelerator="cpu", devices=1)
    history = train(fabric, task, image_set, subset, context, old, RECIPE3, 0, report, checkpoint)
    return task.state_dict(), history


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_resumes_to_the_last_bit(tmp_path, name):
    undisturbed, history = fit(make_method(name))
    notes = []

    def checkpoint():
        return Checkpoint(tmp_path / "c.pt", "key", 0, notes.append)

    # The state of epoch 1 is written after the report of epoch 1: cut in the second, then third.
    for epoch in (2, 3):
        with pytest.raises(CutError):
            fit(make_method(name), checkpoint(), cut_after=epoch)
        assert len(checkpoint().read()["terms"]) == epoch - 1
    resumed, resumed_history = fit(make_method(name), checkpoint())
    assert same(undisturbed, resumed)
    assert resumed_history.terms == history.terms
    assert notes == []


def test_the_state_of_a_cut_training_is_needed(tmp_path):
    """Guards the test above: without the random state the weights of a dropout method differ."""

    class Noisy(type(make_method("l2"))):
        def loss(self, step):
            return {"noise": (step.new * torch.randn_like(step.new)).mean()}

    undisturbed, _ = fit(Noisy())
    checkpoint = Checkpoint(tmp_path / "c.pt", "key", 0)
    with pytest.raises(CutError):
        fit(Noisy(), checkpoint, cut_after=2)
    state = checkpoint.read()
    assert same(undisturbed, fit(Noisy(), checkpoint)[0])
    checkpoint.write({**state, "random": {**state["random"], "cpu": torch.get_rng_state()}})
    assert not same(undisturbed, fit(Noisy(), checkpoint)[0])


def damaged_states(state):
    learner = state["learner"]
    name = next(iter(learner["parameters"]))
    shapeless = {**learner, "parameters": {**learner["parameters"], name: torch.zeros(1)}}
    last = list(learner["parameters"])[-1]
    late = {**learner, "parameters": {**learner["parameters"], last: torch.zeros(1)}}
    harmful = {**learner, "numbers": {**learner["numbers"], "": {"forward": 1}}}
    without = {key: value for key, value in state.items() if key != "optimizer"}
    return {
        "shape": {**state, "learner": shapeless},
        "half-way": {**state, "learner": late},
        "attribute": {**state, "learner": harmful},
        "missing": without,
        "optimizer": {**state, "optimizer": {"state": {}, "param_groups": []}},
        "random": {**state, "random": {"cpu": torch.zeros(3, dtype=torch.uint8), "device": None}},
    }


@pytest.mark.parametrize(
    "fault", ["shape", "half-way", "attribute", "missing", "optimizer", "random"]
)
def test_a_state_that_does_not_fit_is_set_aside_and_leaves_no_trace(tmp_path, fault):
    undisturbed, _ = fit(make_method("ract"))
    notes = []
    checkpoint = Checkpoint(tmp_path / "c.pt", "key", 0, notes.append)
    with pytest.raises(CutError):
        fit(make_method("ract"), checkpoint, cut_after=2)
    checkpoint.write(damaged_states(checkpoint.read())[fault])
    assert same(undisturbed, fit(make_method("ract"), checkpoint)[0])
    assert len(notes) == 1
    assert "set aside" in notes[0]
    assert (tmp_path / "c.damaged").exists()


@pytest.mark.parametrize("fault", ["flipped", "truncated", "empty", "text", "foreign"])
def test_a_damaged_or_foreign_file_is_set_aside(tmp_path, fault):
    path, notes = tmp_path / "c.pt", []
    checkpoint = Checkpoint(path, "key", 0, notes.append)
    checkpoint.write({"weights": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    if fault == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"truncated": content[:-200], "empty": b"", "text": b"not a checkpoint"}.get(fault, content)
    )
    if fault == "foreign":
        Checkpoint(path, "another key").write({"weights": torch.zeros(1)})
    assert checkpoint.read() is None
    assert not path.exists()
    assert len(notes) == 1


def test_a_checkpoint_with_code_in_it_runs_nothing(tmp_path):
    path, harm, notes = tmp_path / "c.pt", tmp_path / "harm", []

    class Harm:
        def __reduce__(self):
            return (open, (str(harm), "w"))

    checkpoint = Checkpoint(path, "key", 0, notes.append)
    checkpoint.write(Harm())
    assert checkpoint.read() is None
    assert not harm.exists()
    assert "Weights only load failed" in notes[0]


def test_states_are_written_at_most_every_so_many_seconds(tmp_path):
    assert Checkpoint(tmp_path / "c.pt", "key", 0).due()
    assert not Checkpoint(tmp_path / "c.pt", "key", 3600).due()
    fit(make_method("l2"), Checkpoint(tmp_path / "c.pt", "key", 3600))
    assert not (tmp_path / "c.pt").exists()


def test_what_is_restored_is_what_was_there():
    assert np.array_equal(*(fit(make_method("l2"))[0]["head"].numpy() for _ in range(2)))
