"""The command line, end to end."""

import json
import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from typer.testing import CliRunner

from bench import __version__
from bench.analysis.suite_records import suite_key
from bench.cli.commands import app
from bench.evaluation import records
from tests.command import TINY, bench, here

IN_TINY = TINY[:-2]  # for `run`, which runs one at a time


def refused(*arguments, **variables):
    """Run a command that must fail with one sentence and no traceback; return the sentence."""
    done = here(*arguments, check=False, **variables)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return " ".join(done.stderr.split())


def parquet_files(results):
    return sorted(
        str(path.relative_to(results)) for path in (results / "records").rglob("*.parquet")
    )


def test_help_and_list_import_nothing_heavy():
    script = (
        "import sys; from bench.cli.commands import main; sys.argv[1:] = {arguments};\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert not {{'torch', 'mlflow', 'timm', 'pandas', 'faiss'}} & set(sys.modules), 'heavy'"
    )
    for arguments in (["--help"], ["list"], ["list", "methods"], ["all", "--help"]):
        code = script.format(arguments=arguments)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_list_names_what_is_there():
    text = bench("list").stdout
    for name in ("ract", "icons", "extended-class", "smoke"):
        assert name in text


def test_a_suite_leaves_records_that_depend_on_the_cell_alone(finished):
    results, _ = finished
    cell = "records/tiny/synthetic/extended-class/{}/seed-0.parquet"
    assert parquet_files(results) == [cell.format("independent"), cell.format("ract")]


def test_a_suite_ends_with_one_screen_and_where_to_read_on(finished):
    results, text = finished
    screen = text[text.index("tiny · synthetic · 2 runs, 1 seed") :].splitlines()
    assert max(map(len, screen[:-2])) <= 80
    shown = [line.split()[0] for line in screen if line.startswith("  ") and "[" in line]
    assert set(shown[1:]) == {"independent", "ract"}  # below the heading
    assert screen[-2] == f"report   {results}/reports/tiny/report.html"
    assert (results / "reports/tiny/report.html").is_file()
    assert screen[-1] == f"mlflow   python -m bench ui --results {results}"


def test_progress_counts_runs_and_names_them_as_people_would(finished):
    _, text = finished
    lines = [line for line in text.splitlines() if "✓" in line]
    runs = [line for line in lines if line.startswith("[")]
    assert [line.partition(" ")[0] for line in runs] == ["[1/2]", "[2/2]"]
    assert all(re.search(r"✓ extended-class · \w+ · seed 0 · \d+(\.\d)? s", line) for line in runs)
    assert any(re.search(r"✓ base model · 30% of classes · test_resnet", line) for line in lines)


def test_another_setting_leaves_what_is_there_and_has_a_name_of_its_own(grown):
    results = grown
    before = {path: (results / path).read_bytes() for path in parquet_files(results)}
    arguments = [*TINY, "--methods", "ract", "--set", "ract.weight=2", "--results", results]
    done = here("all", *arguments)
    assert "tiny+ract.weight=2 · synthetic · 1 run, 1 seed" in done.stdout
    for path, content in before.items():
        assert (results / path).read_bytes() == content
    named = [path for path in parquet_files(results) if path not in before]
    assert named == ["records/tiny+ract.weight=2/synthetic/extended-class/ract/seed-0.parquet"]
    again = here("all", *TINY, "--methods", "ract", "--results", results)
    last = again.stdout[again.stdout.index("tiny · synthetic · 1 run, 1 seed") :]
    assert "independent" not in last.partition("report ")[0]
    assert "all 2 runs of the suite" in last


def test_full_prints_the_tables_above(finished):
    results, _ = finished
    arguments = [*TINY, "--methods", "independent,ract", "--results", results, "--full"]
    text = here("all", *arguments).stdout
    assert "M(o,o)" in text[: text.index("tiny · synthetic")]
    assert "M(o,o)" not in finished[1]
    assert "= 2 of 2 runs are cached" in text


@pytest.mark.parametrize("command", ["all", "run", "plan", "tune", "evaluate", "report", "compare"])
def test_help_has_examples_groups_and_no_types_of_flags(command):
    text = bench(command, "--help").stdout
    assert "<bool>" not in text
    assert f"python -m bench {command} " in text.replace("\n", " ").split("Examples", 1)[1]
    if command in ("all", "plan"):
        for group in ("Suite, data and model", "Which runs", "How it runs"):
            assert f"─ {group} ─" in text


def test_the_version_is_told():
    assert bench("--version").stdout == f"bench {__version__}\n"


def test_the_only_suite_needs_no_name_and_several_are_named(finished, tmp_path):
    results, _ = finished
    shutil.copytree(results / "records", tmp_path / "of two" / "records")
    folder = tmp_path / "of two"
    done = here("report", "--results", folder)
    assert done.stdout == f"report: '{folder}/reports/tiny/report.html'\n"
    shutil.copytree(folder / "records" / "tiny", folder / "records" / "other")
    assert "2 suites: other, tiny; choose one with --suite" in refused(
        "report", "--results", folder
    )
    assert f"bench all --results '{tmp_path}/no such'" in refused(
        "report", "--results", tmp_path / "no such"
    )


def test_every_cell_is_in_mlflow_with_its_curve(finished):
    from mlflow import MlflowClient

    results, _ = finished
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny/synthetic")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'")
    assert sorted(run.data.tags["method"] for run in runs) == ["independent", "ract"]
    run = next(run for run in runs if run.data.tags["method"] == "ract")
    assert (run.data.tags["scenario"], run.data.tags["seed"]) == ("extended-class", "0")
    rows = pd.read_parquet(results / "records/tiny/synthetic/extended-class/ract/seed-0.parquet")
    refreshed = rows[rows["system"] == "refreshed"]
    expected = refreshed.groupby("share")["AP"].mean()
    history = client.get_metric_history(run.info.run_id, "mAP")
    assert [point.step for point in history] == list(range(0, 101, 10))
    assert [point.value for point in history] == pytest.approx(expected.tolist(), rel=1e-12)
    old = rows[rows["system"] == "old"].set_index("query")["success_at_1"]
    for point in client.get_metric_history(run.info.run_id, "NFR_at_1"):
        now = refreshed[(100 * refreshed["share"]).round() == point.step]
        now = now.set_index("query")["success_at_1"]
        assert point.value == pytest.approx((old & ~now.reindex(old.index)).mean(), rel=1e-12)
    wanted = {
        *("NFR_at_5", "PFR_at_1", "AUC_mAP", "AUC_NFR_at_1", "M_old_old", "M_new_old"),
        *("M_new_new", "train_images_per_s", "embed_images_per_s", "search_queries_per_s"),
        *("backfill_images_per_s", "loss_classification", "loss_ract"),
    }
    assert wanted <= set(run.data.metrics)
    (path,) = (results / "artifacts").glob(f"**/{run.info.run_id}/artifacts/environment.json")
    made = json.loads(path.read_text())
    assert made["provenance"]["packages"]["torch"]
    assert {"git_revision", "cores"} <= set(made["provenance"])
    assert made["dataset_revision"]
    for stage in ("training", "embedding", "search"):
        assert made["measured_on"][stage]["device"] == "cpu"
        assert made["measured_on"][stage]["threads"] == 1
        assert made["measured_on"][stage]["precision"] in ("float32", "bfloat16")
    assert run.data.params["new_recipe.epochs"] == "1"
    assert run.data.params["ract.weight"] == "1.0"
    assert run.data.params["method"] == "ract"


def test_mlflow_holds_means_over_seeds_and_one_comparison(finished):
    from mlflow import MlflowClient

    from bench.report.cached import scenarios_of

    results, _ = finished
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny/synthetic")
    summaries = client.search_runs([experiment.experiment_id], "tags.kind = 'summary'")
    (scenario,) = scenarios_of(results, "tiny", suite_key(results, "tiny"))
    assert {run.data.tags["method"] for run in summaries} == set(scenario.methods)
    for run in summaries:
        position = scenario.methods.index(run.data.tags["method"])
        for bound, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            history = client.get_metric_history(run.info.run_id, f"NFR_at_1{suffix}")
            expected = getattr(scenario.curves["NFR_at_1"], bound)[position]
            assert [point.value for point in history] == expected.tolist()
            expected = getattr(scenario.estimates["AUC_mAP"], bound)[position]
            assert run.data.metrics[f"AUC_mAP{suffix}"] == expected
    (comparison,) = client.search_runs([experiment.experiment_id], "tags.kind = 'comparison'")
    files = {file.path for file in client.list_artifacts(comparison.info.run_id, "report")}
    assert "report/report.html" in files
    assert client.list_artifacts(comparison.info.run_id, "tables")


def test_a_second_run_trains_nothing_and_logs_nothing_twice(finished):
    results, _ = finished
    weights = {path: path.stat().st_mtime_ns for path in results.rglob("weights.safetensors")}
    started = time.time()
    here("all", *TINY, "--methods", "independent,ract", "--results", results)
    assert weights == {
        path: path.stat().st_mtime_ns for path in results.rglob("weights.safetensors")
    }
    assert not [path for path in results.rglob("*.parquet") if path.stat().st_mtime > started]
    test_every_cell_is_in_mlflow_with_its_curve(finished)


def test_a_further_method_trains_that_method_only(grown):
    results = grown
    before = set((results / "cache/models").glob("*/manifest.json"))
    done = here("all", *TINY, "--methods", "independent,ract,l2", "--results", results)
    added = set((results / "cache/models").glob("*/manifest.json")) - before
    assert len(added) == 1
    assert len(re.findall(r"^\[\d+/\d+\] ✓", done.stdout, re.MULTILINE)) == 1


def test_an_infinite_rate_is_refused():
    done = CliRunner().invoke(app, ["plan", "--smoke", "--images-per-s", "inf"])
    assert str(done.exception) == "--images-per-s inf is no rate; give a finite number"


def test_plan_says_what_is_cached_and_what_would_run(finished):
    results, _ = finished
    asked = ("plan", *TINY[:-2], "--methods", "independent,bct", "--results", results)
    assert re.search(r"2\s*│\s*1\s*│\s*1\s*│\s*bct\s*│", here(*asked).stdout)
    text = here(*asked, "--full").stdout
    assert re.search(r"independent\s*│\s*0\s*│\s*cached", text)
    assert re.search(r"bct\s*│\s*0\s*│\s*to run", text)
    assert "1 of 2, with 1 models to train" in text
    assert re.search(r"device-hours +<0\.01 \(training", text)
    assert re.search(r"\d+ at a time: about \d+\.\d minutes", text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "rcat"], "unknown method 'rcat'; did you mean 'ract'?"),
        (["--scenarios", "extend-class"], "did you mean 'extended-class'?"),
        (["--dataset", "icon"], "unknown dataset 'icon'; did you mean 'icons'?"),
        (["--suite", "smok"], "unknown suite 'smok'; did you mean 'smoke'?"),
        (["--set", "epoch=1"], "unknown setting 'epoch'; did you mean 'epochs'?"),
        (["--set", "ract.wieght=1"], "unknown setting of ract: 'wieght'; did you mean 'weight'?"),
        (["--set", "rcat.weight=1"], "dataset of this run 'rcat'; did you mean 'ract'?"),
        (["--set", "backbone=test_resnte"], "did you mean 'test_resnet'?"),
        (["--set", "epochs=-1"], "recipe.epochs = -1 is not valid"),
        (["--seeds", "zero"], "'zero' is not valid"),
        (["--orders", "rnadom"], "unknown backfill order 'rnadom'; did you mean 'random'?"),
    ],
)
def test_what_is_not_known_is_named_with_the_nearest(tmp_path, arguments, sentence):
    assert sentence in refused("all", *TINY, "--results", tmp_path / "r", *arguments)


def test_a_results_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refused("all", *TINY, "--results", tmp_path / "file")


def test_a_results_folder_of_another_version_is_named(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "VERSION").write_text("0\n")
    assert "has schema version 0" in refused("all", *TINY, "--results", tmp_path)


def test_a_loss_that_is_not_finite_fails_its_cell_and_no_other(tmp_path):
    text = refused(
        *("all", *TINY, "--methods", "independent,l2", "--results", tmp_path),
        *("--set", "l2.weight=1e39"),
    )
    assert "1 of 2 runs failed: extended-class · l2 · seed 0: loss term 'l2' is inf at step" in text
    cell = "records/tiny+l2.weight=1e39/synthetic/extended-class/independent/seed-0.parquet"
    assert parquet_files(tmp_path) == [cell]
    assert list((tmp_path / "failures").rglob("seed-0.json"))


def test_a_broken_tracking_server_costs_a_warning_and_nothing_else(tmp_path):
    done = here(
        *("all", *TINY, "--methods", "independent", "--results", tmp_path),
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )
    assert "warning: MLflow at http://127.0.0.1:9 failed" in done.stdout
    assert len(parquet_files(tmp_path)) == 1
    away = here("track", "--results", tmp_path, check=False, MLFLOW_TRACKING_URI="http://[::1]:9")
    (cell,) = parquet_files(tmp_path)
    assert away.returncode == 1
    for missing in (cell, "comparison of tiny"):
        assert missing in away.stderr.partition("error: not in MLflow: ")[2]
    assert here("track", "--results", tmp_path).stdout.startswith("1 of 1 runs are in MLflow at ")
    assert {"cell", "summary", "comparison"} <= kinds(tmp_path)


def kinds(results):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name != 'Default'")
    return {run.data.tags["kind"] for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.slow  # tests/bench/execution/test_workers.py has two at once, and quickly
def test_parallel_cells_give_the_same_records(finished, tmp_path):
    results, _ = finished
    arguments = [*TINY[:-2], "--jobs", "2", "--methods", "independent,ract"]
    bench("all", *arguments, "--results", tmp_path)
    for name in parquet_files(results):
        if name in parquet_files(tmp_path):
            one, two = pd.read_parquet(results / name), pd.read_parquet(tmp_path / name)
            pd.testing.assert_frame_equal(one, two)


@pytest.mark.slow
def test_a_cell_on_two_devices_is_that_of_one(tmp_path):
    answers = []
    for devices in ("1", "2"):
        results = tmp_path / devices
        model = ["--backbone", "timm:test_convnext", "--set", "image_size=32", "--set", "epochs=2"]
        bench("run", "ract", *IN_TINY, *model, "--devices", devices, "--results", results)
        (path,) = (results / "records").rglob("*.parquet")
        rows, note = records.read(path)
        assert note.trained["new"].devices == int(devices)
        answers.append(rows)
    one, two = answers
    assert (one["query"] == two["query"]).all()
    # Sums in another order: the same curve but for last bits and what they grow to in training.
    assert abs(one["AP"] - two["AP"]).mean() < 0.01
