"""Tuning: one budget for all, the defaults first, and never a look at the test split."""

import dataclasses
import json
import sys

import pandas as pd
import pytest
from rich.console import Console

from bench.errors import BenchError
from bench.pipeline.runner import run
from bench.pipeline.tasks import RunSettings
from bench.pipeline.tuning import OBJECTIVES, Search, Trial, tune
from bench.plugins import registry
from bench.settings import search_space, tunable, validated
from bench.storage.store import Store
from bench.suites.loading import compose
from bench.tracking.tracker import Tracker

optuna = pytest.importorskip("optuna")

CONTENT = {
    "name": "toy",
    "summary": "a toy",
    "dataset": "synthetic",
    "scenarios": ["extended-class"],
    "seeds": [0],
    "methods": ["l2", "bct"],
    "split": "validation",
    "shares": 3,
    "recipe": {"epochs": 1, "image_size": 16, "width": 8},
    "options": {"synthetic": {"images_per_class": 4}},
}


class Watcher:
    """Hears and forgets."""

    def begin(self, runs, models):
        pass

    def progress(self, label, stage, done, total):
        pass

    def finish(self, outcome):
        pass


class Runner:
    """Runs plans in this process and keeps every outcome, by round."""

    def __init__(self, results):
        self.results, self.rounds = results, []
        Store(results).open()

    def __call__(self, plan):
        self.rounds.append(run(plan, self.results, Watcher(), RunSettings()))
        return self.rounds[-1]


def search(results, *assignments, budget=2, objective="AUC_NFR_at_1", fixed=(), **chosen):
    runner = Runner(results)
    suite = compose(CONTENT, assignments, **chosen)
    return tune(suite, budget, objective, results, runner, fixed), runner


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search of two methods, three trials each."""
    results = tmp_path_factory.mktemp("tuning")
    searches, runner = search(results, budget=3)
    return results, searches, runner


class Untouchable:
    """Stands for the test split: whatever is asked of it fails the cell."""

    def __getattr__(self, name):
        raise AssertionError(f"tuning read {name} of the test split")

    def __len__(self):
        raise AssertionError("tuning read the size of the test split")


@pytest.fixture
def hidden_test_split(monkeypatch):
    from datasets.synthetic import Synthetic

    load = Synthetic.load

    def without_test(self, image_size, cache):
        data = load(self, image_size, cache)
        nothing = Untouchable()
        return dataclasses.replace(
            data, query=nothing, gallery=nothing, relevance=nothing, groups=None
        )

    monkeypatch.setattr(Synthetic, "load", without_test)


# ------------------------------------------------------------------------------ declared ranges


@pytest.mark.parametrize("name", sorted(registry.discover("methods")))
def test_every_declared_range_holds_the_default_and_is_valid_to_its_ends(name):
    config = registry.method_class(name).Config
    defaults = config()
    for setting, declared in search_space(config).items():
        ends = declared.get("choices") or (declared["low"], declared["high"])
        for value in ends:
            assert getattr(validated(config, {setting: value}, name), setting) == value
        default = getattr(defaults, setting)
        assert default in ends if "choices" in declared else ends[0] <= default <= ends[1]


@pytest.mark.parametrize(
    ("default", "low", "high", "log"),
    [(1, 2, 3, True), (1, 1, 1, True), (0.5, 0, 1, True), (4, 1, 3, False)],
)
def test_a_range_without_its_default_or_without_a_logarithm_is_refused(default, low, high, log):
    with pytest.raises(ValueError, match="no range to search around the default"):
        tunable(default, low, high, log=log)


# -------------------------------------------------------------------------------------- budget


def test_every_method_gets_exactly_the_budget(searched):
    _, searches, runner = searched
    assert [(one.method, [trial.number for trial in one.trials]) for one in searches] == [
        ("l2", [0, 1, 2]),
        ("bct", [0, 1, 2]),
    ]
    *rounds, last = runner.rounds
    assert len(rounds) == 3
    for outcomes in rounds:
        assert sorted(outcome.spec.cell.method for outcome in outcomes) == ["bct", "l2"]
    assert {outcome.status for outcome in last} == {"cached"}


def test_the_first_trial_is_the_default_whatever_the_suite_had_chosen(tmp_path, searched):
    _, searches, _ = searched
    assert searches[0].trials[0].settings == {"weight": 1.0}
    assert searches[1].trials[0].settings == {"weight": 1.0, "unseen": "synthesise"}
    (own,), runner = search(tmp_path, "l2.weight=5", budget=1, methods=("l2",))
    assert own.trials[0].settings == {"weight": 1.0}
    assert json.loads(runner.rounds[0][0].spec.new.options)["weight"] == 1.0


def test_settings_stay_in_their_ranges_and_differ(searched):
    _, searches, _ = searched
    for one in searches:
        weights = [trial.settings["weight"] for trial in one.trials]
        assert len(set(weights)) == 3
        space = search_space(registry.method_class(one.method).Config)["weight"]
        assert all(space["low"] <= weight <= space["high"] for weight in weights)


def test_a_setting_given_by_hand_is_held_and_not_searched(tmp_path):
    (own,), runner = search(
        tmp_path, "bct.weight=3", budget=2, methods=("bct",), fixed={"bct.weight"}
    )
    assert all(set(trial.settings) == {"unseen"} for trial in own.trials)
    for outcomes in runner.rounds:
        assert json.loads(outcomes[0].spec.new.options)["weight"] == 3


# ------------------------------------------------------------------------------------- fairness


def test_the_same_search_gives_the_same_trials_alone_or_in_company(tmp_path, searched):
    _, (l2, _), _ = searched
    (alone,), _ = search(tmp_path, budget=3, methods=("l2",))
    assert alone.trials == l2.trials


def test_a_repeated_search_trains_nothing(searched):
    results, searches, _ = searched
    again, runner = search(results, budget=3)
    assert [one.trials for one in again] == [one.trials for one in searches]
    assert {outcome.status for outcomes in runner.rounds for outcome in outcomes} == {"cached"}


def test_all_trials_of_all_methods_meet_the_same_old_system(searched):
    _, _, runner = searched
    specs = [outcome.spec for outcomes in runner.rounds for outcome in outcomes]
    assert len({spec.old.key for spec in specs}) == 1
    assert {spec.old.dataset.split for spec in specs} == {"validation"}


def test_the_test_split_is_never_read(tmp_path, hidden_test_split):
    (own,), _ = search(tmp_path, budget=1, methods=("l2",))
    assert own.trials[0].error == ""


def test_the_guard_of_the_test_split_would_notice(tmp_path, hidden_test_split):
    outcomes = Runner(tmp_path)(plan_of_test_split())
    assert "of the test split" in outcomes[0].error


def plan_of_test_split():
    from bench.pipeline.plan import make_plan

    return make_plan(compose(CONTENT, methods=("l2",), split="test"))


def test_the_test_split_cannot_be_asked_for(tmp_path):
    with pytest.raises(BenchError, match="tuning reads the validation split alone.*split=test"):
        search(tmp_path, "split=test")


# -------------------------------------------------------------------------------------- scores


def test_scores_are_means_over_the_cells_recomputed_from_the_records(searched):
    results, searches, _ = searched
    for one in searches:  # the records of the chosen setting are left where people look
        path = results / f"records/toy-tuning/synthetic/extended-class/{one.method}/seed-0.parquet"
        rows = pd.read_parquet(path)
        old = rows[rows["system"] == "old"].set_index("query")["success_at_1"]
        refreshed = rows[rows["system"] == "refreshed"]
        rates, precisions = [], []
        for _, now in refreshed.groupby("share"):
            right = now.set_index("query")["success_at_1"].reindex(old.index)
            rates.append((old & ~right).mean())
            precisions.append(now["AP"].mean())
        area = (rates[0] + 2 * rates[1] + rates[2]) / 4  # trapezoids over shares 0, 1/2, 1
        assert one.chosen.scores["AUC_NFR_at_1"] == pytest.approx(area)
        assert one.chosen.scores["M_new_old"] == pytest.approx(precisions[0])
        assert one.chosen.scores["M_new_new"] == pytest.approx(precisions[-1])


def test_scores_average_scenarios_and_seeds(tmp_path):
    (one,), runner = search(tmp_path, budget=1, methods=("l2",), seeds=(0, 1))
    (first,), _ = search(tmp_path, budget=1, methods=("l2",), seeds=(0,))
    (second,), _ = search(tmp_path, budget=1, methods=("l2",), seeds=(1,))
    assert len(runner.rounds[0]) == 2
    for name, value in one.trials[0].scores.items():
        both = (first.trials[0].scores[name] + second.trials[0].scores[name]) / 2
        assert value == pytest.approx(both)


@pytest.mark.parametrize(
    ("objective", "best"), [("AUC_NFR_at_1", 1), ("AUC_mAP", 2), ("AUC_mAP-AUC_NFR_at_1", 3)]
)
def test_each_objective_chooses_its_best_trial(objective, best):
    assert objective in OBJECTIVES
    scores = [(0.1, 0.9), (0.2, 0.01), (0.9, 0.8), (0.8, 0.1), (0.8, 0.1)]
    trials = tuple(
        Trial(number, {"weight": number}, {"AUC_mAP": ap, "AUC_NFR_at_1": flips})
        for number, (ap, flips) in enumerate(scores)
    )
    found = Search(compose(CONTENT), "l2", objective, (*trials, Trial(5, {}, {}, "failed")))
    assert found.chosen.number == best
    assert found.use == f"--set l2.weight={best}"


def test_a_trial_that_fails_counts_and_is_recorded(tmp_path, monkeypatch):
    from methods.l2 import L2

    loss = L2.loss

    def explode(self, step):
        terms = loss(self, step)
        return terms if self.config.weight == 1 else {"l2": terms["l2"] * float("inf")}

    monkeypatch.setattr(L2, "loss", explode)
    (one,), _ = search(tmp_path, budget=3, methods=("l2",))
    assert [bool(trial.error) for trial in one.trials] == [False, True, True]
    assert "loss term 'l2' is inf" in one.trials[1].error
    assert one.chosen.number == 0
    frame = pd.read_csv(one.write(tmp_path))
    assert frame["error"].notna().tolist() == [False, True, True]
    assert frame["AUC_mAP"].isna().tolist() == [False, True, True]


# ----------------------------------------------------------------------------- what is written


def test_the_trials_are_kept_as_csv_and_json_and_shown(searched):
    results, (_, bct), _ = searched
    path = bct.write(results)
    frame, content = pd.read_csv(path), json.loads(path.with_suffix(".json").read_text())
    assert frame["unseen"].tolist() == [trial.settings["unseen"] for trial in bct.trials]
    assert content["trials"] == [dataclasses.asdict(trial) for trial in bct.trials]
    assert content["chosen"] == bct.chosen.number
    assert content["suite"]["split"] == "validation"
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bct.table())
    assert "3 trials on the validation split, by AUC_NFR_at_1" in capture.get()


def test_the_setting_to_use_reads_back_as_it_was(searched):
    _, searches, _ = searched
    for one in searches:
        suite = compose(CONTENT, one.use.replace("--set ", "").split())
        assert suite.options[one.method] == one.chosen.settings


def test_mlflow_has_a_run_per_method_and_one_below_it_per_trial(searched, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results, searches, _ = searched
    tracker = Tracker(results, Console())
    shorter = dataclasses.replace(searches[0], trials=searches[0].trials[:2])
    for one in (shorter, *searches, *searches):  # replaced when it differs, logged once when not
        assert tracker.log_search(one)
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("toy-tuning/synthetic").experiment_id
    assert len(client.search_runs([experiment], "tags.kind = 'trial'")) == 6
    parents = client.search_runs([experiment], "tags.kind = 'tuning'")
    assert sorted(run.data.tags["method"] for run in parents) == ["bct", "l2"]
    for one in searches:
        (parent,) = [run for run in parents if run.data.tags["method"] == one.method]
        below = f"tags.kind = 'trial' and tags.mlflow.parentRunId = '{parent.info.run_id}'"
        children = client.search_runs([experiment], below)
        assert len(children) == 3
        for child in children:
            trial = one.trials[int(child.data.tags["trial"])]
            assert child.data.metrics == pytest.approx(trial.scores)
            assert child.data.params == {k: str(v) for k, v in trial.settings.items()}


# ------------------------------------------------------------------------------------ sentences


def test_an_unknown_method_is_named_with_the_nearest(tmp_path):
    with pytest.raises(BenchError, match="unknown method 'bctt'; did you mean 'bct'?"):
        search(tmp_path, methods=("bctt",))


def test_a_method_with_nothing_to_search_is_named(tmp_path):
    with pytest.raises(BenchError, match="method 'independent' has no setting left to search"):
        search(tmp_path, methods=("independent",))


def test_an_unknown_objective_is_named(tmp_path):
    with pytest.raises(BenchError, match="unknown objective 'AUC_map'; did you mean 'AUC_mAP'?"):
        search(tmp_path, objective="AUC_map")


def test_a_missing_optuna_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BenchError, match='tuning needs Optuna.*pip install "optuna>=4"'):
        search(tmp_path)


@pytest.mark.slow
def test_the_command_prints_a_table_and_how_to_use_the_chosen_setting(tmp_path):
    from tests.command import TINY, bench

    done = bench("tune", "l2,bct", "--trials", "2", *TINY, "--results", tmp_path)
    assert done.stdout.count("2 trials on the validation split") == 2
    assert "--set bct.weight=" in done.stdout
    assert (tmp_path / "tuning/tiny-tuning/synthetic/l2.csv").is_file()
    done = bench("tune", "l2", "--set", "split=test", *TINY, "--results", tmp_path, check=False)
    assert "tuning reads the validation split alone" in done.stderr
