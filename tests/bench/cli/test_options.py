"""Options that commands share: each spelled once, and each doing what it says."""

import dataclasses
import inspect
from pathlib import Path

import pytest

from bench.cli import commands, options
from bench.cli.options import CellOptions, folder, grouped
from bench.errors import BenchError
from tests.command import here


def composed(**chosen):
    return CellOptions(**chosen).made()


def test_a_group_becomes_options_of_the_command():
    seen = {}

    @grouped
    def command(name: str, choice: CellOptions) -> None:
        seen.update(name=name, choice=choice)

    signature = inspect.signature(command)
    assert next(iter(signature.parameters)) == "name"
    assert signature.parameters["smoke"].default is False
    given = {name: each.default for name, each in signature.parameters.items()}
    command(**{**given, "name": "x", "methods": "ract, bct"})
    assert seen["name"] == "x"
    assert seen["choice"] == CellOptions(methods="ract, bct")


def test_every_shared_option_reaches_a_command():
    for name in ("run_all", "show_plan", "run_one", "tune_methods"):
        parameters = inspect.signature(getattr(commands, name)).parameters
        shared = {field.name for field in dataclasses.fields(options.SuiteOptions)}
        assert shared <= set(parameters), name


def test_the_model_is_chosen_by_flags():
    weights = Path("weights.safetensors")
    suite = composed(backbone="timm:test_vit", pretrained=True, weights=weights)
    assert suite.recipe.backbone == "test_vit"
    assert suite.recipe.pretrained
    assert suite.recipe.weights == weights.absolute()
    plain = composed()
    assert (plain.recipe.backbone, plain.recipe.pretrained) == ("test_resnet", False)


def test_a_flag_and_the_setting_that_it_stands_for_are_not_both_given():
    with pytest.raises(BenchError, match="the setting 'backbone' is given twice; give it once"):
        composed(backbone="resnet18", assignments=["backbone=resnet50"])


def test_corrupt_images_are_skipped_of_the_data_set_that_is_meant():
    suite = composed(dataset="folder:/pictures", skip_corrupt=True)
    assert suite.options["folder"] == {"skip_corrupt": True}
    market = composed(suite="market1501", skip_corrupt=True)
    assert market.options["market1501"]["skip_corrupt"] is True
    assert "skip_corrupt" not in composed(suite="market1501").options.get("market1501", {})


def test_a_url_is_no_folder_to_work_in(tmp_path):
    url = "s3://bucket/results"
    with pytest.raises(BenchError, match=f"--results {url} is a URL.*--mirror {url}"):
        folder(url)
    assert folder(str(tmp_path)) == tmp_path
    done = here("report", "--results", url, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "expected a folder" in done.stderr


def test_names_are_split_at_commas():
    suite = composed(scenarios="extended-data, extended-class", seeds="3,5", methods="ract")
    assert suite.scenarios == ("extended-data", "extended-class")
    assert (suite.seeds, suite.methods) == ((3, 5), ("ract",))
