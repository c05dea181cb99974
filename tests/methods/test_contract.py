"""Every method that is found keeps the contract."""

import pytest

from bench.authoring.contract import check_method
from bench.plugins import registry

# Published sizes are kept out of the way of a fast suite; every other setting is the default.
SMALL = {
    "fct": {"inner_width": 16, "epochs": 4},
    "fastfill": {"inner_width": 16, "epochs": 4},
    "mlp_adapter": {"epochs": 4},
    "bict": {"inner_width": 16, "epochs": 4},
    "mct": {"epochs": 4},
}


@pytest.mark.parametrize("name", registry.discover("methods"))
def test_method_keeps_the_contract(name):
    assert check_method(name, SMALL.get(name)) == []


@pytest.mark.parametrize("name", ["bct", "bct_ract"])
def test_the_old_classifier_may_leave_out_classes_that_it_never_saw(name):
    assert check_method(name, {"unseen": "drop"}) == []
