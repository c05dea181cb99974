"""The walk-through of CONTRIBUTING.md works as written."""

import re
import textwrap

import pytest

from bench import registry
from tests.command import ROOT, TINY, bench


@pytest.mark.slow
def test_a_method_goes_from_an_empty_file_to_the_table(tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    path = registry.ROOT / "methods" / "neighbours.py"
    assert not path.exists()
    try:
        assert "wrote" in bench("new", "method", "neighbours").stdout
        bench("check", "neighbours")
        path.write_text(textwrap.dedent(example))
        assert "Neighbourhood distillation" in bench("list", "methods").stdout
        bench("check", "neighbours")
        methods = ["--methods", "independent,neighbours"]
        text = bench("all", *TINY, *methods, "--results", tmp_path).stdout
        assert re.search(r"neighbours.*\d\.\d", text)
    finally:
        path.unlink(missing_ok=True)
