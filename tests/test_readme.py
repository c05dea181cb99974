"""What the README says is what happens."""

import re

import pytest

from bench import records, summary
from tests.command import ROOT

README = (ROOT / "README.md").read_text()


def test_the_example_recomputes_the_numbers_from_the_records(finished, capsys):
    results, _ = finished
    example = re.search(r"```python\n(import pandas.*?)```", README, re.DOTALL)[1]
    path = "records/default/synthetic/extended-class/ract/seed-0.parquet"
    example = re.sub(r'cell = ".*?"', f'cell = "{results / path}"', example)
    exec(compile(example, "README.md", "exec"), {})
    printed = re.findall(
        r"(\d+)% backfilled: mAP ([\d.]+), NFR@1 ([\d.]+)", capsys.readouterr().out
    )
    rows, _ = records.read(results / path)
    curve = summary.curve(summary.arrays(rows))
    assert [int(share) for share, _, _ in printed] == list(range(0, 101, 10))
    assert [float(ap) for _, ap, _ in printed] == pytest.approx(curve["mAP"], abs=5e-5)
    assert [float(nfr) for _, _, nfr in printed] == pytest.approx(curve["NFR_at_1"], abs=5e-5)


def test_both_commands_stand_in_the_readme_as_ci_runs_them():
    assert "pip install -e . && python -m bench all" in README
    assert '\npip install -e ".[test]" && pytest\n' in README


def test_the_method_that_the_readme_shows_is_the_file():
    source = (ROOT / "methods" / "l2.py").read_text()
    assert source[source.index("class L2(") :].rstrip() in README
