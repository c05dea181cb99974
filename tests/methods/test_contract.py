"""Every method that is found keeps the contract."""

import pytest

from bench import registry
from bench.check import check_method


@pytest.mark.parametrize("name", registry.discover("methods"))
def test_method_keeps_the_contract(name):
    assert check_method(name) == []


def test_bct_keeps_the_contract_when_it_drops_unseen_classes():
    assert check_method("bct", {"unseen": "drop"}) == []
