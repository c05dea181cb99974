import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.evaluation.orders import PAPER_ORDER
from bench.pipeline.plan import make_plan, suite_cells
from bench.storage.results import Cell
from bench.suites.loading import (
    compose,
    load_scenarios,
    load_suite,
    read_assignments,
    suite_names,
)
from bench.suites.schema import Recipe, Suite

CONTENT = {
    "name": "toy",
    "summary": "a toy",
    "dataset": "synthetic",
    "scenarios": ["extended-class"],
    "methods": ["l2", "ract"],
}


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_of_the_harness_is_valid(name):
    suite = compose(load_suite(name))
    assert set(suite.scenarios) <= set(load_scenarios())


def test_assignments_reach_suite_recipe_and_plugins():
    suite = compose(
        CONTENT,
        [
            "epochs=3",
            "recipe.width=8",
            "shares=5",
            'orders=["by-answered-queries"]',
            "ract.weight=2.5",
            "l2.x=[1]",
        ],
    )
    assert (suite.recipe.epochs, suite.recipe.width, suite.shares) == (3, 8, 5)
    assert suite.orders == ("by-answered-queries",)
    assert suite.options == {"ract": {"weight": 2.5}, "l2": {"x": [1]}}


def test_choices_of_the_command_line_replace_the_suite_s_own():
    suite = compose(CONTENT, methods=("bct",), seeds=(0, 4), dataset=None)
    assert (suite.methods, suite.seeds, suite.dataset) == (("bct",), (0, 4), "synthetic")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("recipe.widht=3", "unknown setting 'recipe.widht'"),
        ("epochs", "--set epochs has no '='"),
        ("epochs=0", "suite 'toy': recipe.epochs = 0 is not valid"),
        ("epochs=many", "suite 'toy': recipe.epochs = 'many' is not valid"),
    ],
)
def test_wrong_assignments_are_named(assignment, sentence):
    with pytest.raises(BenchError) as caught:
        compose(CONTENT, [assignment])
    assert sentence in str(caught.value)


def test_an_unknown_key_in_a_suite_file_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('summary = "x"\ndataset = "icons"\nscenarios = []\nmethod = []\n')
    with pytest.raises(BenchError, match="unknown setting of suite 'mine': 'method'.*'methods'"):
        compose(load_suite(str(path)))


def test_a_suite_has_what_it_extends_but_for_what_it_says_itself():
    default, smoke = (compose(load_suite(name)) for name in ("default", "smoke"))
    assert smoke.methods == default.methods
    assert smoke.recipe.learning_rate == default.recipe.learning_rate
    assert smoke.recipe.epochs < default.recipe.epochs
    assert (smoke.name, smoke.seeds) == ("smoke", (0,))


def test_a_suite_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("name =")
    with pytest.raises(BenchError, match="broken.toml cannot be read as TOML"):
        load_suite(str(path))


def test_cells_are_scenario_by_seed_by_method(tmp_path):
    suite = compose(CONTENT, seeds=(0, 1))
    assert [str(cell) for cell in suite_cells(suite)] == [
        "extended-class · l2 · seed 0",
        "extended-class · ract · seed 0",
        "extended-class · l2 · seed 1",
        "extended-class · ract · seed 1",
    ]
    cell = Cell("toy", "synthetic", "extended-class", "l2", 1)
    expected = "records/toy/synthetic/extended-class/l2/seed-1.parquet"
    assert cell.record_path(tmp_path) == tmp_path / expected


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("sides={nwe={epochs=3}}", "sides.nwe = 'nwe' is not valid: Input should be 'old' or"),
        ("sides={old={epoch=3}}", "unknown setting of the recipe of one side: 'epoch'; did you"),
        ("sides=3", "sides = 3 is a int, expected a table of settings"),
        ("old.epoch=3", "unknown setting of the recipe of one side: 'epoch'; did you"),
        ("new.epochs=0", "the recipe of one side: epochs = 0 is not valid"),
        ("seeds=[]", "seeds = [] is not valid"),
        ("seeds=[-1]", "seeds.0 = -1 is not valid"),
        ("seeds=[1, 1]", "1 is there twice"),
        ("seeds=[true]", "seeds.0 = True is not valid"),
        ('methods=["l2", "l2"]', "'l2' is there twice"),
        ("methods=[]", "methods = [] is not valid"),
        ("temperature=inf", "recipe.temperature = inf is not valid"),
        ("temperature=nan", "recipe.temperature = nan is not valid"),
        ("crop_area=[1, 0.5]", "the first number is to be the smaller one"),
        ("crop_area=[0.1, inf]", "recipe.crop_area.1 = inf is not valid"),
        ("epochs=true", "recipe.epochs = True is not valid"),
        ('epochs="3"', "recipe.epochs = '3' is not valid"),
        ("flip=false", "recipe.flip = False is not valid"),
        ("pretrained=1", "recipe.pretrained = 1 is not valid"),
        ("summary=2020-01-01", "2020-01-01 is a date, which no setting is"),
        ("bct.weight=2", "unknown method or dataset of this run 'bct'"),
        ("icons.size=2", "unknown method or dataset of this run 'icons'"),
        ("epochs=3\nshares=5", "is not valid"),
        ("epochs=100000000000000000000", "recipe.epochs = 100000000000000000000 is not valid"),
        ("image_size=100000", "recipe.image_size = 100000 is not valid"),
        ("width=1e400", "recipe.width = inf is not valid"),
        ("batch_size=1000000000000", "recipe.batch_size = 1000000000000 is not valid"),
        ("temperature=1e-320", "recipe.temperature = 1e-320 is not valid"),
        ("crop_area=[1e308, 1e308]", "recipe.crop_area.0 = 1e+308 is not valid"),
        ("warmup_epochs=1e308", "recipe.warmup_epochs = 1e+308 is not valid"),
        ("backbone=''", "recipe.backbone = '' is not valid"),
        ("optimizer=''", "recipe.optimizer = '' is not valid"),
        ("weights=''", "expected the path of a file"),
        ("embeddings=''", "expected the path of a file"),
        ("backbone_options={x={y=[nan]}}", "recipe.backbone_options"),
        ("recipe.backbone_options=3", "recipe.backbone_options = 3 is not valid"),
    ],
)
def test_every_setting_is_used_or_refused_by_name(assignment, sentence):
    with pytest.raises(BenchError) as caught:
        compose(CONTENT, [assignment])
    assert sentence in str(caught.value)


def test_sides_given_as_a_table_arrive():
    given = ["sides={old={epochs=3}}", "new.width=8", "old.crop_area=[0.5, 1]"]
    for assignments in (given, given[::-1]):
        assert compose(CONTENT, assignments).sides == {
            "old": {"epochs": 3, "crop_area": [0.5, 1]},
            "new": {"width": 8},
        }


@pytest.mark.parametrize("second", ["size=3", "icons.size=3"])
def test_settings_of_one_plug_in_are_each_given_once(second):
    assert read_assignments(["icons.size=2", "weight=3"], "icons") == {"size": 2, "weight": 3}
    with pytest.raises(BenchError, match="the setting 'size' is given twice; give it once"):
        read_assignments(["icons.size=2", second], "icons")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "does not say 'summary'"),
        ('summary = "x"\nscenarios = ["a"]\nmethods = ["l2"]', "does not say 'dataset'"),
        ("recipe = 3", "recipe = 3 is a int, expected a table"),
        ("options = [1]", "options = [1] is a list, expected a table"),
        ("options.ract = 3", "ract = 3 is a int, expected a table"),
        ("sides = 'x'", "sides = 'x' is a str, expected a table"),
        ("extends = 'default'\n[sides.nwe]", "sides.nwe"),
        ("extends = 3", "extends = 3 is no name of a suite"),
        ("extends = 'SELF'", "extends itself"),
        ("extends = 'defalt'", "unknown suite 'defalt'; did you mean 'default'?"),
        ("name = 'x'", "a suite has the name of its file"),
        ("extends = 'default'\nseed = 3", "unknown setting of suite 'mine': 'seed'"),
    ],
)
def test_a_suite_file_is_used_or_refused_by_name(tmp_path, text, sentence):
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("SELF", str(path)))
    with pytest.raises(BenchError) as caught:
        compose(load_suite(str(path)))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("stem", ["..", "x" * 200, "a\x1b[31m", "a*", "a'b", " a", "-x"])
def test_a_name_that_is_no_folder_or_breaks_commands_is_refused(tmp_path, stem):
    path = tmp_path / f"{stem}.toml"
    path.write_text("extends = 'default'")
    with pytest.raises(BenchError, match="name = "):
        compose(load_suite(str(path)))


@pytest.mark.parametrize(
    "name", ["", "x" * 300, "\0.toml", "..", "nowhere.toml", "y" * 300 + ".toml"]
)
def test_what_is_no_suite_is_named(name):
    with pytest.raises(BenchError):
        load_suite(name)


VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.dates(),
        st.sampled_from(["default", "smoke", "l2", "ract", "icons", "synthetic", "extended-class"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*Suite.model_fields, *Recipe.model_fields, "old", "l2", "nwe", ""]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*Suite.model_fields, "extends", "sides", "options", "recipe", "seed"])


def toml(value):
    """Spell a value in TOML, a second time: there is no writer in the standard library."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return str(value)


@settings(max_examples=300, derandomize=True)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.booleans())
def test_any_toml_is_a_suite_or_a_sentence(tmp_path_factory, content, based):
    path = tmp_path_factory.mktemp("suites") / "mine.toml"
    base = {"extends": "default"} if based else {}
    lines = (f"{key} = {toml(value)}\n" for key, value in {**base, **content}.items())
    path.write_text("".join(lines), encoding="utf-8", errors="replace")
    with suppress(BenchError):
        make_plan(compose(load_suite(str(path))), revision="x")


@settings(max_examples=300, derandomize=True)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=3), st.text(max_size=12))
def test_any_assignment_is_a_setting_or_a_sentence(pairs, text):
    with suppress(BenchError):
        compose(CONTENT, [*(f"{key}={toml(value)}" for key, value in pairs), text])


@settings(max_examples=300, derandomize=True)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_suite_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("suites") / "mine.toml"
    path.write_bytes(content)
    with suppress(BenchError):
        compose(load_suite(str(path)))


def test_nesting_without_end_is_a_sentence(tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text("x = " + "[" * 10_000)
    with pytest.raises(BenchError, match=r"deep.toml cannot be read as TOML"):
        load_suite(str(path))
    with pytest.raises(BenchError):
        compose(CONTENT, ["seeds=" + "[" * 10_000])


def test_the_default_suite_walks_the_papers_order_beside_random():
    assert compose(load_suite("default")).orders == ("random", PAPER_ORDER)
