"""The rehearsal passes where all is well, and says what does not hold where it is not."""

import json
import os

import pytest
import typer

from bench.cli import rehearse as cli
from bench.errors import BenchError
from bench.plugins import registry
from bench.rehearsal import parts, rehearse, runs
from bench.rehearsal.stand import Stand
from bench.rehearsal.verdict import Finding, Verdict, failed
from bench.upgrade.faiss_index import UpdatableIndex
from tests.command import bench


def stand(folder, **changes):
    return Stand(**{"folder": folder, "methods": ("bct",), "gpus": 0, "quick": True, **changes})


def quietly(what):
    """Hear what a step does."""


def test_one_step_from_the_command_line(tmp_path):
    report = tmp_path / "rehearsal.json"
    done = bench("rehearse", "--quick", "--steps", "sweep", "--json", report)
    content = json.loads(report.read_text())
    (step,) = content["steps"]
    assert (step["step"], step["state"], step["figures"]["different"]) == ("sweep", "passed", 0)
    assert step["figures"]["compared"] > 1000
    assert step["peak_bytes"] > 100 << 20
    assert content["failed"] == []
    assert done.stdout.splitlines()[-1] == "no step failed"
    if content["pretended"]:
        assert "no GPU here: on a PRETENDED one" in done.stdout.splitlines()[0]


def test_what_a_step_sets_comes_before_what_makes_its_runs_small(tmp_path):
    small, own = (
        stand(tmp_path).plan(("fct", "bct"), "extended-class", *settings)
        for settings in ((), ("epochs=7", "fct.epochs=3"))
    )
    assert [spec.new.recipe.epochs for spec in (*small, *own)] == [1, 1, 7, 7]
    fitted = [json.loads(spec.new.options)["epochs"] for spec in (small[0], own[0])]
    assert fitted == [registry.method_class("fct").quick["epochs"], 3]
    assert {spec.new.recipe.width for spec in (*small, *own)} == {16}


@pytest.mark.slow
def test_all_steps_from_the_command_line(tmp_path):
    report = tmp_path / "rehearsal.json"
    methods = "bct,ract,procrustes,mlp_adapter"
    done = bench("rehearse", "--methods", methods, "--json", report, check=False)
    content = json.loads(report.read_text())
    assert [step["step"] for step in content["steps"]] == list(rehearse.STEPS)
    assert set(content["failed"]) <= {"readers"}, done.stdout  # which is up to the machine
    assert done.returncode == (3 if content["failed"] else 0)


def test_a_rank_that_differs_fails_the_sweep(tmp_path, monkeypatch):
    exact = parts.relevant_ranks

    def off_by_one(generations, relevance, shares, depth, device):
        ranks = exact(generations, relevance, shares, depth, device)
        ranks[0, 0] -= device.type == "cuda" and depth is None
        return ranks

    monkeypatch.setattr(parts, "relevant_ranks", off_by_one)
    found = parts.sweep(stand(tmp_path), quietly)
    assert found.state == "failed"
    assert found.figures["different"] == 1


def test_replicas_answer_as_the_cpu_does_and_a_lost_update_shows(tmp_path, monkeypatch):
    found = parts.indexes(stand(tmp_path), quietly)
    assert found.state == "passed"
    assert set(found.figures["right"]) == {
        f"{factory} on {count}" for factory in parts.INDEXES for count in (1, 2)
    }
    monkeypatch.setattr(UpdatableIndex, "update", lambda self, rows, gallery: None)
    assert parts.indexes(stand(tmp_path), quietly).state == "failed"


@pytest.mark.parametrize(("rate", "state"), [(1e-9, "passed"), (1e9, "failed")])
def test_readers_keep_up_or_they_do_not(tmp_path, monkeypatch, rate, state):
    monkeypatch.setattr(parts.DryRun, "training_step", lambda self, recipe: parts.BATCH / rate)
    monkeypatch.setattr(parts, "_decoded_per_second", lambda images, count: 100.0 * (count + 1))
    monkeypatch.setattr(parts, "pictures", lambda *shape: None)
    monkeypatch.setattr(parts, "cpu_count", lambda: 9)
    found = parts.readers(stand(tmp_path), quietly)
    assert found.state == state
    assert list(found.figures["decoded"]) == ([0] if state == "passed" else [0, 4, 8])


def test_a_method_that_breaks_the_contract_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "check_method", lambda name: ["it waits"] * (name == "l2"))
    found = parts.check(stand(tmp_path, methods=("bct", "l2")), quietly)
    assert (found.state, found.figures["failed"]) == ("failed", {"l2": "it waits"})


def test_methods_that_refuse_other_widths_are_left_out(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Stand, "run", lambda self, name, plan, report: asked.extend(plan) or [])
    found = runs.wider(stand(tmp_path, methods=("l2", "bct", "ract")), quietly)
    assert {spec.cell.scenario for spec in asked} == {"wider-embedding"}
    assert all(spec.old.deployed.recipe.width < spec.new.deployed.recipe.width for spec in asked)
    refusing = found.figures["refusing"]
    assert sorted([*refusing, *(spec.cell.method for spec in asked)]) == ["bct", "l2", "ract"]


def test_one_gpu_leaves_two_devices_out(tmp_path):
    assert runs.devices(stand(tmp_path, gpus=1), quietly).state == "left out"


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (lambda stand, report: os._exit(7), "its process ended with 7"),
        (lambda stand, report: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_step_that_breaks_or_dies_fails_alone(monkeypatch, step, sentence):
    steps = {"bad": step, "good": lambda stand, report: report("at it") or Finding("passed", "")}
    monkeypatch.setattr(rehearse, "STEPS", steps)
    monkeypatch.setattr(rehearse, "START", "fork")
    told = []
    bad, good = rehearse.rehearse(["bad", "good"], [], True, told.append)
    assert (bad.finding.state, bad.finding.words) == ("failed", sentence)
    assert good.finding.state == "passed"
    assert "good: at it" in told


@pytest.mark.parametrize(("state", "status"), [("passed", None), ("left out", None), ("failed", 3)])
def test_the_exit_status_and_the_report_say_what_failed(tmp_path, monkeypatch, state, status):
    verdicts = [Verdict("sweep", Finding(state, "words"), 1.0, 2)]
    monkeypatch.setattr(rehearse, "rehearse", lambda *arguments: iter(verdicts))
    try:
        cli.command(json_path=tmp_path / "r.json")
        ended = None
    except typer.Exit as error:
        ended = error.exit_code
    assert ended == status
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["failed"] == failed(verdicts) == ["sweep"] * (state == "failed")


def test_wrong_names_and_places_are_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse, "rehearse", lambda *arguments: pytest.fail("it began"))
    with pytest.raises(BenchError, match="unknown step 'sweeep'; did you mean 'sweep'"):
        cli.command(steps="sweeep")
    with pytest.raises(BenchError, match="unknown method 'bcd'"):
        cli.command(methods="bcd")
    with pytest.raises(BenchError, match="is a folder; name a file to write"):
        cli.command(json_path=tmp_path)
