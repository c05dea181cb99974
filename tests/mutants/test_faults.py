"""The list of silent faults fits the code as it is; `run.py` tries them."""

import json
import tomllib

import pytest

from tests.mutants.run import FAULTS, ROOT, page

EVERY = tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: fault["name"])
def test_a_fault_can_be_put_in_and_its_tests_are_there(fault):
    text = (ROOT / fault["file"]).read_text(encoding="utf-8")
    assert text.count(fault["text"]) == 1
    assert fault["fault"] != fault["text"]
    assert all((ROOT / test.partition("::")[0]).exists() for test in fault["tests"].split())


def test_faults_have_names_of_their_own():
    assert len({fault["name"] for fault in EVERY}) == len(EVERY) >= 80


def test_the_page_says_what_was_tried_and_that_nothing_survived():
    outcomes = json.loads(FAULTS.with_name("outcomes.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8") == page(EVERY, outcomes)
    assert all(outcome["noticed by"] for outcome in outcomes.values())
    assert outcomes.keys() <= {fault["name"] for fault in EVERY}
