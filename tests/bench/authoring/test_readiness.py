"""Which data sets are ready is told from what lies on this machine."""

import re

from tests.command import here
from tests.datasets import layouts


def test_list_datasets_says_which_are_ready_and_what_is_missing(tmp_path):
    layouts.sop(tmp_path / "sop")
    layouts.market1501(tmp_path / "market1501")
    (tmp_path / "market1501" / "query").rename(tmp_path / "market1501" / "queries")
    text = here("list", "datasets", BENCH_DATA=str(tmp_path), COLUMNS="300").stdout
    states = dict(re.findall(r"^(\w+) +(ready|not ready) ", text, re.MULTILINE))
    assert states["sop"] == states["icons"] == states["synthetic"] == "ready"
    assert states["cub"] == states["market1501"] == states["folder"] == "not ready"
    missing = str(tmp_path / "NAME")
    assert re.search(rf"^not ready: .*\bcub\b.*: {missing} is not there", text, re.MULTILINE)
    assert f"market1501: {tmp_path / 'NAME' / 'query'} is not there" in text
    assert "write 'NAME:SOURCE'" in text
    assert "bench data NAME" in text


def test_list_datasets_says_how_to_tell_where_data_lie(monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)
    text = " ".join(here("list", "datasets").stdout.split())
    assert text.count("no folder given; pass --set NAME.root=PATH, or set BENCH_DATA") == 1
