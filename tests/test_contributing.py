"""The walk-throughs of CONTRIBUTING.md work as written."""

import re
import textwrap

import pytest

from bench.plugins import registry
from tests.command import ROOT, TINY, bench

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "summary"),
    [
        ("neighbours", "loss", "Neighbourhood distillation"),
        ("kernel", "bridge", "Kernel bridge"),
    ],
)
def test_a_method_goes_from_an_empty_file_to_the_table(tmp_path, name, kind, summary):
    (example,) = (each for each in EXAMPLES if summary in each)
    path = registry.ROOT / "methods" / f"{name}.py"
    assert not path.exists()
    chosen = [] if kind == "loss" else ["--kind", kind]
    try:
        assert "wrote" in bench("new", "method", name, *chosen).stdout
        assert ("trains: ClassVar[bool] = False" in path.read_text()) == (kind == "bridge")
        bench("check", name)
        path.write_text(textwrap.dedent(example))
        assert summary in bench("list", "methods").stdout
        bench("check", name)
        methods = ["--methods", f"independent,{name}"]
        text = bench("all", *TINY, *methods, "--full", "--results", tmp_path).stdout
        assert "Cost of serving in" in text
        assert re.search(rf"{name}.*\d\.\d", text)
    finally:
        path.unlink(missing_ok=True)
