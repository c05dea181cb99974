"""Tasks on a real cluster of two Ray nodes, each with its own raylet, on this machine."""

import itertools
import os
import signal
import socket
import sys
import tempfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.execution.resources import THREAD_VARIABLES
from bench.pipeline.runner import run
from bench.pipeline.tasks import RunSettings
from tests.bench.pipeline.test_runner import Silent
from tests.bench.pipeline.test_stages import plan
from tests.command import TINY, bench
from tests.robustness.crashes import content
from tests.robustness.test_interruption import LONG, start, wait_for

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # on a busy machine a nice worker gets no turn
ray = pytest.importorskip("ray", reason='pip install -e ".[cluster]"')

from bench.execution import cluster  # noqa: E402
from bench.execution.cluster import Cluster, identity  # noqa: E402
from tests.bench import cluster_tasks as tasks  # noqa: E402

NODE = {"num_cpus": 1, "object_store_memory": cluster.OBJECT_STORE}


@pytest.fixture(scope="module")
def nodes():
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    nodes.add_node(**NODE)
    yield nodes
    nodes.shutdown()


def no_death(task, error):
    raise AssertionError(f"{task} died: {error}")


def other_code():
    return {**identity.__wrapped__(), "methods/ract": "0", "torch": "1.0"}


class TestConnected:
    """Tests that share one connection, and with it its worker processes."""

    @pytest.fixture(scope="class")
    def team(self, nodes):
        with Cluster(0, 1, address=nodes.address) as team:
            yield team

    def test_tasks_run_on_every_node_and_each_once(self, team, nodes):
        found = dict(team.each(range(6), tasks.where, no_death))
        assert set(found) == set(range(6))
        assert set(found.values()) == {node.node_id for node in nodes.list_all_nodes()}
        assert list(team.each([], tasks.where, no_death)) == []

    def test_every_node_is_asked(self, team, nodes):
        assert sorted(team.ask(tasks.here)) == sorted(n.node_id for n in nodes.list_all_nodes())

    def test_no_more_tasks_at_once_than_were_asked_for(self, team, monkeypatch):
        monkeypatch.setattr(team, "jobs", 1)
        spans = sorted(team.each(range(4), tasks.span, no_death))
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))

    def test_a_task_whose_process_dies_again_and_again_harms_no_other(self, team, tmp_path):
        work = partial(tasks.double_or_die, folder=tmp_path)
        every = [(0,), (1, "die"), (2,)]
        found = list(team.each(every, work, lambda task, error: f"{task[0]} was killed"))
        assert sorted(map(str, found)) == ["0", "1 was killed", "4"]
        assert len(list(tmp_path.glob("1.*"))) == 1 + cluster.RETRIES

    def test_an_error_of_the_harness_itself_comes_through(self, team):
        with pytest.raises(ZeroDivisionError, match="task 3"):
            list(team.each([3], tasks.fail, no_death))

    def test_tasks_get_their_threads_and_the_folder_that_relative_paths_mean(self, team):
        ((threads, ignored, folder),) = team.each([0], tasks.surroundings, no_death)
        assert threads == dict.fromkeys(THREAD_VARIABLES, "1")
        assert (ignored, folder) == (True, Path.cwd())

    def test_tasks_are_heard_wherever_they_run(self, team):
        heard = []
        with team.messages(heard.append) as send:
            list(team.each(range(4), partial(tasks.tell, send=send), no_death))
            wait_for(lambda: len(heard) == 4, 30)
        assert sorted(task for task, *_ in heard) == [0, 1, 2, 3]
        assert os.getpid() not in {pid for *_, pid in heard}

    def test_a_node_with_other_code_that_joins_later_is_refused(self, team, monkeypatch):
        monkeypatch.setattr(cluster, "identity", other_code)
        with pytest.raises(BenchError, match="is refused: it differs from this machine in"):
            list(team.each([0], tasks.where, no_death))


def test_a_node_with_other_code_is_refused_at_the_start(nodes, monkeypatch):
    monkeypatch.setattr(cluster, "identity", other_code)
    with (
        pytest.raises(BenchError, match=r"node .* is refused: .*torch .* \(here 1\.0\)") as caught,
        Cluster(0, 1, address=nodes.address),
    ):
        pass
    assert "install the same checkout, plug-ins and packages on every node" in str(caught.value)
    assert not ray.is_initialized()


def test_every_part_that_decides_results_is_compared():
    parts = identity()
    assert {"bench", "Python", "torch", "methods/ract", "datasets/synthetic"} <= set(parts)


def test_a_gpu_is_a_resource(nodes):
    node = nodes.add_node(**NODE | {"num_cpus": 2}, num_gpus=1)
    try:
        with Cluster(0, 0, address=nodes.address) as team:
            assert team.threads == 2
            found = {place for _, place in team.each(range(2), tasks.where, no_death)}
            asked = team.ask(tasks.here), team.ask(tasks.visible_gpus)
        assert found == {node.node_id}
        assert asked == ([node.node_id], ["0"])  # as work would be done: there, with the GPU
    finally:
        nodes.remove_node(node)


def test_a_cluster_that_is_too_small_is_a_sentence(nodes):
    with (
        pytest.raises(BenchError, match="no node of the cluster has 99 cores .*--threads"),
        Cluster(0, 99, address=nodes.address),
    ):
        pass
    assert not ray.is_initialized()


def test_a_task_takes_its_memory(nodes):
    with Cluster(0, 1, memory=lambda: 1 << 30, address=nodes.address) as team:
        assert team.share["memory"] == 1 << 30
        assert len(dict(team.each(range(2), tasks.where, no_death))) == 2
    with (
        pytest.raises(BenchError, match=r"1 cores and 1048576\.0 GiB of memory .* batch_size"),
        Cluster(0, 1, memory=lambda: 1 << 50, address=nodes.address),
    ):
        pass


def test_a_cluster_that_is_not_there_is_a_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(BenchError, match=f"there is no Ray cluster at {address}: .*refused"),
            Cluster(0, 1, address=address),
        ):
            pass
    with (
        pytest.raises(BenchError, match="at ray://here:10001: that is a port of Ray's client"),
        Cluster(0, 1, address="ray://here:10001"),
    ):
        pass
    with (
        pytest.raises(BenchError, match="no Ray cluster at nonsense: Invalid address"),
        Cluster(0, 1, address="nonsense"),
    ):
        pass


class Dashboard(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_port_where_something_else_answers_is_a_sentence_at_once():
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        with (
            pytest.raises(BenchError, match=f"at {address}: something else answers there"),
            Cluster(0, 1, address=address),
        ):
            pass
        server.shutdown()


def test_a_port_where_nobody_answers_is_a_sentence_soon(monkeypatch):
    monkeypatch.setattr(cluster, "KNOCK", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(BenchError, match=f"no Ray cluster at {address}: timed out"),
            Cluster(0, 1, address=address),
        ):
            pass


def test_ray_that_is_missing_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BenchError, match=r'install it with `pip install -e "\.\[cluster\]"`'):
        Cluster(0, 1).__enter__()


class Scattered(Cluster):
    """A cluster whose nodes share no folder, with each other or with this process."""

    def each(self, every, work, killed):
        return super().each(every, partial(tasks.on_own_disk, work=work), killed)


def test_nodes_without_a_common_folder_share_their_stages_over_a_url(nodes, tmp_path):
    specs = plan(methods=("independent", "l2"))
    run(specs, tmp_path / "alone", Silent(), RunSettings(jobs=1, threads=1))
    conduct = RunSettings(
        jobs=0,
        threads=1,
        engine=partial(Scattered, address=nodes.address),
        mirror=f"file://{tmp_path}/mirror",
    )
    outcomes = run(specs, tmp_path / "apart", Silent(), conduct)
    assert [outcome.status for outcome in outcomes] == ["done"] * 2
    alone, apart = content(tmp_path / "alone"), content(tmp_path / "apart")
    published = {name for name in alone if name.startswith("records/")}
    assert len(published) == 2
    assert all(apart[name] == alone[name] for name in published)
    for node in nodes.list_all_nodes():
        assert (tmp_path / "apart" / node.node_id / "cache/models").is_dir()


def test_an_address_without_ray_is_not_ignored(tmp_path):
    done = bench("all", *TINY, "--results", tmp_path, "--address", "127.0.0.1:1", check=False)
    assert done.returncode == 1
    assert "add --engine ray" in done.stderr


@pytest.fixture
def ray_folder():
    """A folder for Ray's sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield folder


def running(folder):
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:  # it has just ended
            continue
    return [line for line in lines if folder.encode() in line]


@pytest.mark.slow
def test_the_command_line_starts_and_stops_a_ray_of_its_own(tmp_path, ray_folder):
    arguments = ["all", *TINY[:-2], "--methods", "independent", "--results", tmp_path]
    done = bench(*arguments, "--engine", "ray", RAY_TMPDIR=ray_folder)
    assert "tiny · synthetic · " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert len(list((tmp_path / "records").rglob("*.parquet"))) == 1
    wait_for(lambda: not running(ray_folder), 20)


@pytest.mark.slow
def test_an_interrupted_run_ends_its_ray(tmp_path, ray_folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    arguments = ["--results", tmp_path, "--checkpoint-every", 0, "--engine", "ray"]
    process = start("all", *LONG, *arguments)
    wait_for(lambda: list((tmp_path / "cache/checkpoints").glob("*.pt")))
    assert running(ray_folder)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, out + err
    assert "the same command goes on from there" in err
    assert "Traceback" not in out + err
    wait_for(lambda: not running(ray_folder), 20)
    assert list((tmp_path / "cache/checkpoints").glob("*.pt"))


@pytest.mark.slow
def test_each_task_on_a_counted_gpu_has_a_process_of_its_own(monkeypatch):
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 2, "num_gpus": 2, "include_dashboard": False},
    )
    try:
        with Cluster(0, 1, address=nodes.address) as team:
            found = list(team.each(range(5), tasks.gpu_and_process, no_death))
    finally:
        nodes.shutdown()
    assert {gpu for gpu, _ in found} == {"0", "1"}
    assert len({process for _, process in found}) == 5
