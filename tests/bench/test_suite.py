import pytest

from bench.errors import BenchError
from bench.suite import Cell, cells, compose, load_scenarios, load_suite, suite_names

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
            'orders=["oracle"]',
            "ract.weight=2.5",
            "l2.x=[1]",
        ],
    )
    assert (suite.recipe.epochs, suite.recipe.width, suite.shares) == (3, 8, 5)
    assert suite.orders == ("oracle",)
    assert suite.options == {"ract": {"weight": 2.5}, "l2": {"x": [1]}}


def test_choices_of_the_command_line_replace_the_suite_s_own():
    suite = compose(CONTENT, methods=("bct",), seeds=("0", "4"), dataset=None)
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
    assert [str(cell) for cell in cells(suite)] == [
        "extended-class/l2/seed-0",
        "extended-class/ract/seed-0",
        "extended-class/l2/seed-1",
        "extended-class/ract/seed-1",
    ]
    cell = Cell("toy", "synthetic", "extended-class", "l2", 1)
    expected = "records/toy/synthetic/extended-class/l2/seed-1.parquet"
    assert cell.record_path(tmp_path) == tmp_path / expected
