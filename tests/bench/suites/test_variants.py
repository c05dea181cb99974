"""A suite that is made otherwise has another name; choosing some of its runs changes none."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.suites.loading import compose
from bench.suites.schema import LONGEST_NAME, NAME
from bench.suites.variants import compose_variant, variant_name

CONTENT = {
    **{"name": "toy", "summary": "a toy", "dataset": "icons", "scenarios": ["extended-class"]},
    **{"methods": ["bct", "ract"], "seeds": [0, 1], "recipe": {"epochs": 3}},
    "options": {"ract": {"weight": 2.0}},
}


def name(*assignments, given=(), places=(), **chosen):
    return compose_variant(CONTENT, assignments, given, places, **chosen).name


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"methods": ("ract",), "seeds": (4, 7), "scenarios": ("open-class",)},
        {"dataset": None, "orders": None},
    ],
)
def test_choosing_runs_names_no_variant(same):
    assert name(**same) == "toy"


def test_restating_what_the_suite_says_names_no_variant():
    assert name("epochs=3", "ract.weight=2.0", "orders=['random']", "seeds=[5]") == "toy"


@pytest.mark.parametrize(
    ("assignments", "chosen", "expected"),
    [
        (["ract.weight=3.0", "epochs=5"], {}, "toy+epochs=5+ract.weight=3.0"),
        (["epochs=5", "ract.weight=3.0"], {}, "toy+epochs=5+ract.weight=3.0"),
        ([], {"orders": ("random", "oracle-mAP")}, "toy+orders=random,oracle-mAP"),
        ([], {"dataset": "synthetic"}, "toy+dataset=synthetic"),
        (["old.width=64"], {}, "toy+old.width=64"),
        (["ract.weight=1e39"], {}, "toy+ract.weight=1e39"),
        (["new.width=64"], {}, "toy+new.width=64"),
        (["split=validation", "shares=21"], {}, "toy+shares=21+split=validation"),
        (["pretrained=true"], {}, "toy+pretrained=true"),
    ],
)
def test_a_variant_is_named_after_what_differs(assignments, chosen, expected):
    assert name(*assignments, **chosen) == expected


def test_places_and_what_every_run_of_a_kind_has_are_in_no_name():
    root, corrupt = "icons.root=/a/b", "icons.skip_corrupt=true"
    assert name(root, corrupt, places={"root"}) == "toy+icons.skip_corrupt=true"
    assert name(given=["split=validation"]) == "toy"
    assert name("epochs=4", given=["split=validation"]) == "toy+epochs=4"


def test_what_is_taken_away_is_a_difference_too():
    content = {**CONTENT, "sides": {"old": {"width": 64}}}
    kept = compose_variant(content, ["old.epochs=3"]).name
    assert kept == "toy+old.epochs=3"
    taken = compose_variant(content, ["sides={old={epochs=3}}"]).name
    assert taken == "toy+old.epochs=3+old.width=unset"


def test_files_of_the_same_name_in_two_folders_differ():
    one, two = (name(f"weights={folder}/w.safetensors") for folder in ("/a", "/b"))
    assert one != two
    assert one.startswith("toy+weights=w.safetensors+")
    assert len({name(dataset=f"folder:/{place}/birds") for place in "abc"}) == 3


texts = st.text(st.sampled_from("ab/. +='\"é\n-"), min_size=1, max_size=120)


@settings(max_examples=200, derandomize=True)
@given(st.lists(texts, min_size=2, max_size=2, unique=True))
def test_any_two_values_have_two_names_that_can_be_folders(values):
    plain = compose(CONTENT)
    made = [
        variant_name(plain, plain.model_copy(update={"options": {"ract": {"note": value}}}))
        for value in values
    ]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(NAME, each) and len(each) <= LONGEST_NAME for each in made)


@pytest.mark.parametrize(
    ("assignments", "key"),
    [
        (["epochs=3", "epochs=5"], "epochs"),
        (["recipe.epochs=3", "epochs=3"], "epochs"),
        (["l2.weight=1", "width=8", "l2.weight=2"], "l2.weight"),
        (["old.epochs=1", "old.epochs=2"], "old.epochs"),
        (["sides={old={epochs=3}}", "old.epochs=3"], "old.epochs"),
        (["new.epochs=2", "sides={old={epochs=3}, new={epochs=1}}"], "new.epochs"),
        (["sides={old={epochs=3}}", "sides={new={epochs=3}}"], "sides"),
    ],
)
def test_a_setting_that_is_given_twice_is_refused_by_name(assignments, key):
    with pytest.raises(BenchError, match=f"the setting '{key}' is given"):
        compose_variant(CONTENT, assignments)


@pytest.mark.parametrize(
    ("key", "chosen", "text"),
    [("methods", ["l2"], '["bct"]'), ("seeds", [0], "[1]"), ("dataset", "icons", "synthetic")],
)
def test_a_choice_of_the_command_line_is_not_replaced_by_a_setting(key, chosen, text):
    with pytest.raises(BenchError, match=f"the setting '{key}' is given twice"):
        compose_variant(CONTENT, [f"{key}={text}"], **{key: chosen})


def test_what_every_run_of_a_kind_has_gives_way_to_what_a_person_says():
    suite = compose_variant(CONTENT, ["split=test"], ["split=validation", "epochs=3"])
    assert (suite.split, suite.recipe.epochs) == ("test", 3)
