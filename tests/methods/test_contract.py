"""Every method that is found keeps the contract."""

import pytest

from bench.authoring.contract import check_method
from bench.plugins import registry


@pytest.mark.parametrize("name", registry.discover("methods"))
def test_method_keeps_the_contract(name):
    assert check_method(name) == []


@pytest.mark.parametrize("name", ["bct", "bct_ract"])
def test_the_old_classifier_may_leave_out_classes_that_it_never_saw(name):
    assert check_method(name, {"unseen": "drop"}) == []
