"""Which data sets are ready is told from what lies on this machine."""

import re

from tests.command import bench
from tests.datasets import layouts


def test_list_datasets_says_which_are_ready_and_what_is_missing(tmp_path):
    layouts.sop(tmp_path / "sop")
    layouts.market1501(tmp_path / "market1501")
    (tmp_path / "market1501" / "query").rename(tmp_path / "market1501" / "queries")
    text = bench("list", "datasets", BENCH_DATA=str(tmp_path), COLUMNS="300").stdout
    states = dict(re.findall(r"^(\w+) +.*\n +(.*?) *$", text, re.MULTILINE))
    assert states["sop"] == states["icons"] == states["synthetic"] == "ready"
    assert states["cub"] == f"{tmp_path / 'cub'} is not there; expected the folder of the dataset"
    assert states["market1501"].startswith(f"{tmp_path / 'market1501' / 'query'} is not there")
    assert "write 'folder:SOURCE'" in states["folder"]
    assert "bench data NAME" in text


def test_list_datasets_says_how_to_tell_where_data_lie(monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)
    text = " ".join(bench("list", "datasets").stdout.split())
    assert "give its folder with --set cub.root=PATH" in text
