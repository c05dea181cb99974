"""The scripts that count what is lost, on a few points; alone, they try all of them (an hour)."""

import re
import subprocess
import sys

import pytest

from tests.command import ROOT


def figures(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.robustness.{script}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_loses_nothing():
    found = re.match(r"(\d+) kill points .*, 0 records", figures("crashes", "--every", 70))
    assert int(found[1]) >= 3


@pytest.mark.slow
def test_a_run_killed_again_and_again_loses_nothing():
    found = figures("crashes", "--every", 100, "--chains", 2)
    assert ", 0 records or weights lost, 0 finished" in found


@pytest.mark.slow
def test_a_killed_node_costs_a_suite_nothing():
    pytest.importorskip("ray", reason='pip install -e ".[cluster]"')
    found = figures("node_kills", "--kills", 1)
    assert found.startswith("node kills survived: 1 of 1, with 1 tasks torn, 0 records")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [[], ["--apart"]], ids=["folder", "mirror"])
def test_nodes_killed_at_other_moments_cost_a_suite_nothing(shared):
    pytest.importorskip("ray", reason='pip install -e ".[cluster]"')
    found = figures("node_kills", "--kills", 3, *shared)
    assert found.startswith("node kills survived: 3 of 3, with 3 tasks torn, 0 records")


@pytest.mark.slow
def test_a_damaged_file_is_never_used():
    assert figures("corruptions", "--sample", 8) == "8 corrupted files tried, 0 used"


@pytest.mark.slow
def test_a_command_killed_with_its_workers_or_without_loses_nothing():
    found = figures("commands_killed", "--kills", 4)
    assert re.fullmatch(r"[1-4] commands killed within .* s, 0 faults", found)


@pytest.mark.slow
def test_runs_at_once_share_their_work():
    assert figures("concurrency", "--runs", 3).startswith("3 concurrent runs tried, 0 ")
