"""The command line, end to end, in processes of its own."""

import re
import subprocess
import sys
import time

import pandas as pd
import pytest

from bench import records
from bench.records import suite_key
from tests.command import TINY, bench

IN_TINY = TINY[:2] + TINY[6:-2]  # for `run`, which has a scenario, a seed and one job


def refused(*arguments, **variables):
    """Run a command that must fail with one sentence and no traceback; return the sentence."""
    done = bench(*arguments, check=False, **variables)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return " ".join(done.stderr.split())


def parquet_files(results):
    return sorted(
        str(path.relative_to(results)) for path in (results / "records").rglob("*.parquet")
    )


def test_help_and_list_import_nothing_heavy():
    script = (
        "import sys; from bench.cli import main; sys.argv[1:] = {arguments};\n"
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
    cell = "records/default/synthetic/extended-class/{}/seed-0.parquet"
    assert parquet_files(results) == [cell.format("independent"), cell.format("ract")]


def test_a_suite_prints_tables_and_the_next_commands(finished):
    results, text = finished
    assert "extended-class" in text
    assert f"python -m bench report --suite default --results {results}" in text
    assert f"mlflow ui --backend-store-uri sqlite:///{results}/mlflow.db" in text


def test_every_cell_is_in_mlflow_with_its_curve(finished):
    from mlflow import MlflowClient

    results, _ = finished
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("default/synthetic")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'")
    assert sorted(run.data.tags["method"] for run in runs) == ["independent", "ract"]
    run = next(run for run in runs if run.data.tags["method"] == "ract")
    assert (run.data.tags["scenario"], run.data.tags["seed"]) == ("extended-class", "0")
    rows = pd.read_parquet(results / "records/default/synthetic/extended-class/ract/seed-0.parquet")
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
    assert {"git_revision", "dataset_revision", "packages.torch"} <= set(run.data.tags)
    for stage in ("training", "embedding", "search"):
        assert run.data.tags[f"measured_on.{stage}.device"] == "cpu"
        assert run.data.tags[f"measured_on.{stage}.threads"] == "1"
        assert run.data.tags[f"measured_on.{stage}.precision"] in ("float32", "bfloat16")
    assert run.data.params["new_recipe.epochs"] == "1"
    assert run.data.params["ract.weight"] == "1.0"
    assert run.data.params["method"] == "ract"


def test_mlflow_holds_means_over_seeds_and_one_comparison(finished):
    from mlflow import MlflowClient

    from bench.report.kept import scenarios_of

    results, _ = finished
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("default/synthetic")
    summaries = client.search_runs([experiment.experiment_id], "tags.kind = 'summary'")
    (scenario,) = scenarios_of(results, "default", suite_key(results, "default"))
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
    bench("all", *TINY, "--methods", "independent,ract", "--results", results)
    assert weights == {
        path: path.stat().st_mtime_ns for path in results.rglob("weights.safetensors")
    }
    assert not [path for path in results.rglob("*.parquet") if path.stat().st_mtime > started]
    test_every_cell_is_in_mlflow_with_its_curve(finished)


def test_a_further_method_trains_that_method_only(finished):
    results, _ = finished
    before = set((results / "cache/models").glob("*/manifest.json"))
    done = bench("all", *TINY, "--methods", "independent,ract,l2", "--results", results)
    added = set((results / "cache/models").glob("*/manifest.json")) - before
    assert len(added) == 1
    assert len(re.findall(r"^\[\d+/\d+\] done:", done.stdout, re.MULTILINE)) == 1


def test_plan_says_what_is_cached_and_what_would_run(finished):
    results, _ = finished
    text = bench("plan", *TINY[:-2], "--methods", "independent,bct", "--results", results).stdout
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
        (["--set", "rcat.weight=1"], "unknown method 'rcat'; did you mean 'ract'?"),
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
    assert "1 of 2 cells failed: extended-class/l2/seed-0: loss term 'l2' is inf at step" in text
    cell = "records/default/synthetic/extended-class/independent/seed-0.parquet"
    assert parquet_files(tmp_path) == [cell]
    assert list((tmp_path / "failures").rglob("seed-0.json"))


def test_a_broken_tracking_server_costs_a_warning_and_nothing_else(tmp_path):
    done = bench(
        *("all", *TINY, "--methods", "independent", "--results", tmp_path),
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    assert "warning: MLflow at http://127.0.0.1:9 failed" in done.stdout
    assert len(parquet_files(tmp_path)) == 1


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
        assert note["trained"]["new"]["devices"] == int(devices)
        answers.append(rows)
    one, two = answers
    assert (one["query"] == two["query"]).all()
    # Sums in another order: the same curve but for last bits and what they grow to in training.
    assert abs(one["AP"] - two["AP"]).mean() < 0.01
