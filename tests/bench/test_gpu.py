"""What a GPU machine meets, on a pretended GPU: see docs/gpus.md for the list."""

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import faiss
import numpy as np
import pytest
import torch

from bench.authoring import contract
from bench.authoring.pretended import GPU, on_gpu, pretended_fabric, pretended_gpu
from bench.authoring.toy_upgrade import Trials
from bench.cli.options import ParallelRunOptions
from bench.errors import BenchError
from bench.evaluation import backfill, embedded, mixed, orders, scores
from bench.evaluation.embedded import Embedded, deploy, device_of
from bench.evaluation.ranks import Generation, relevant_ranks
from bench.execution import cluster, resources
from bench.execution.machine import MachineError, is_machines
from bench.execution.workers import Workers
from bench.pipeline import make
from bench.plugins.registry import discover, make_method, method_class
from bench.protocol import Method
from bench.relevance import Relevance
from bench.storage.store import Store
from bench.suites import precision
from bench.suites.loading import compose, load_suite
from bench.training.batches import Feed
from bench.training.checkpoint import AsMade, module_state
from bench.training.context import rows_on
from bench.training.models import make_embedder
from bench.upgrade.faiss_index import UpdatableIndex
from tests.bench.pipeline.test_stages import plan
from tests.bench.stages import Stages
from tests.bench.toys import RECIPE, images, make_task, whole, with_old_context

METHODS = sorted(discover("methods"))
FAST = ["bct", "procrustes"]


def slow_but(*fast):
    """All methods, those that are not `fast` in the slow tests."""
    return [
        name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in METHODS
    ]


@pytest.fixture
def gpu():
    with pretended_gpu() as waits:
        yield waits


# ------------------------------------------------------------------------- the pretended device


def test_the_pretended_device_keeps_cudas_rules(gpu):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    assert there.device == GPU
    assert here.device.type == "cpu"
    for wrong in (lambda: there + here, lambda: here @ there, lambda: here[there.long()]):
        with pytest.raises(RuntimeError, match="device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    assert (there + torch.tensor(1.0)).cpu().numpy().tolist() == [2, 2, 2]  # a number may lie here
    assert on_gpu(there[:2].clone().requires_grad_())
    assert on_gpu(torch.nn.Linear(3, 2).to(GPU)(there))


def test_what_the_host_waits_for_is_counted(gpu):
    there = torch.arange(3.0, device="cuda")
    gpu.clear()
    assert there.sum().item() == 3
    assert bool((there[there > 0] == torch.tensor([1.0, 2.0]).to(GPU)).all())
    assert dict(gpu) == {
        "wait: item": 1,
        "wait: __getitem__": 1,
        "copy: to": 1,
        "wait: __bool__": 1,
    }
    torch.ones(3).pin_memory().to(GPU, non_blocking=True)
    assert gpu["copy: to"] == 1


def test_gradients_and_optimisers_work_there(gpu):
    model = torch.nn.Linear(3, 1).to(GPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    model(torch.ones(2, 3, device="cuda")).sum().backward()
    assert on_gpu(model.weight.grad)
    optimizer.step()
    assert not torch.equal(before, model.weight)


# ---------------------------------------------------------------------------- methods and stages


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_every_method_works_on_a_gpu_and_seldom_waits_for_it(name):
    contract.works_on_a_gpu(Trials(method_class(name)))


class OnTheHost(Method):
    def loss(self, step):
        return {"far": (step.new * torch.ones(step.new.shape[1])).mean()}


class Waiting(Method):
    def loss(self, step):
        return {"slow": sum(float(each) for each in step.labels) * step.new.mean()}


@pytest.mark.parametrize(
    ("broken", "sentence"), [(OnTheHost, "same device"), (Waiting, "waits 8 times for the GPU")]
)
def test_the_check_of_plugins_says_what_breaks_on_a_gpu(broken, sentence):
    found = contract.examine(broken)
    assert sentence in (found[str(contract.works_on_a_gpu.__doc__)] or "")


@pytest.mark.parametrize(
    "name",
    [name if name == "fct" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_records_are_made_on_a_gpu(tmp_path, monkeypatch, name):
    options = ["fct.epochs=1", "fct.inner_width=8"] if name == "fct" else []
    monkeypatch.setattr(make, "one_device", lambda accelerator: pretended_fabric())
    with pretended_gpu():
        store = Store(tmp_path)
        store.open()
        stages = Stages(store)
        (spec,) = plan(*options, methods=(name,))
        assert stages.records(spec).exists()
        assert stages.finished.device == GPU


class Plain(Method):
    """Keeps a tensor that is neither parameter nor buffer."""

    def prepare(self, context):
        self.shift = context.old_head.sum(0)

    def gallery(self, view, state):
        return view.old + self.shift if state == "old" else view.new


def test_what_a_method_gets_lies_where_its_tensors_do(gpu):
    method = Plain()
    method.shift = torch.ones(2, device="cuda")
    assert device_of(method) == GPU
    assert device_of(Method()).type == "cpu"
    old, new = np.eye(2, dtype="f"), np.eye(2, dtype="f")[::-1].copy()
    found = deploy(method, Embedded(old, old, new, new))
    assert found.gallery_old.tolist() == [[2, 1], [1, 2]]
    assert found.gallery_new is new  # what is left as it is costs no copy


def test_a_method_is_shown_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(embedded, "ROWS", 3)
    shown = []

    class Watching(Method):
        def gallery(self, view, state):
            shown.append(len(view.old if state == "old" else view.new))
            return 2 * view.old if state == "old" else view.new

    old, new = np.arange(16, dtype="f").reshape(8, 2), np.ones((8, 2), "f")
    found = deploy(Watching(), Embedded(old, old, new, new))
    assert np.array_equal(found.gallery_old, 2 * old)
    assert shown == [3, 3, 2, 3]


def test_uncertainty_is_asked_for_by_orders_that_read_it():
    assert not orders.read(["random", "confidence-old-head"], "method_uncertainty")
    assert orders.read(["random", "method"], "method_uncertainty")
    assert orders.read(["oracle-mAP"], "method_uncertainty")


# ------------------------------------------------------------------------------------ searching


@pytest.fixture
def galleries():
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(count, 6)) for count in (9, 40, 9, 40)]
    judged = [generator.choice(40, 5, False) for _ in range(9)]
    relevance = Relevance.from_lists([j[:3] for j in judged], [j[3:] for j in judged], 40)
    return arrays, relevance


@pytest.mark.parametrize("metric", ["AP", "AP@5"])
@pytest.mark.parametrize("merge", [None, method_class("reciprocal_rank_fusion").merge])
def test_a_curve_is_the_same_on_a_gpu_to_the_last_rank(galleries, metric, merge):
    arrays, relevance = galleries
    given = (*arrays, relevance, np.arange(40)[::-1], np.linspace(0, 1, 4), metric)
    here = backfill.hot_refresh(*given, merge=merge)
    with pretended_gpu():
        assert scores.default_device().type == "cuda"
        there = backfill.hot_refresh(*given, merge=merge)
    assert np.array_equal(here.ap, there.ap, equal_nan=True)
    assert np.array_equal(here.success, there.success)


def test_merges_of_few_queries_at_a_time_are_those_of_all(galleries, monkeypatch):
    arrays, relevance = galleries
    merge = method_class("reciprocal_rank_fusion").merge
    given = (*arrays, relevance, np.arange(40), np.linspace(0, 1, 4), "AP")
    whole_at_once = backfill.hot_refresh(*given, merge=merge)
    monkeypatch.setattr(mixed, "_ENTRIES", 80)
    monkeypatch.setattr(mixed, "_DOUBLE_ROWS", 7)
    in_parts = backfill.hot_refresh(*given, merge=merge)
    assert np.array_equal(whole_at_once.ap, in_parts.ap, equal_nan=True)


@pytest.mark.parametrize("name", ["centre-distance", "gallery-distance", "entropy-old-head"])
def test_orders_are_the_same_on_a_gpu_and_in_blocks(galleries, monkeypatch, name):
    _, gallery, _, train = galleries[0]
    inputs = orders.OrderInputs(
        40, gallery, old_head=train[:4], train_old=train, train_labels=np.arange(40) % 5
    )
    here = orders.order(name, inputs, np.random.default_rng(0))
    monkeypatch.setattr(orders, "_ROWS", 7)
    with pretended_gpu():
        there = orders.order(name, inputs, np.random.default_rng(0))
    assert np.array_equal(here, there)


def test_unit_rows_do_not_depend_on_the_block(monkeypatch):
    array = np.random.default_rng(0).normal(size=(20, 3))
    array[[5, 17]] = 0
    with pytest.raises(BenchError, match=r"row 5 holds only zeros \(2 such rows of 20\)"):
        scores.normalise(array)
    usable = np.delete(array, [5, 17], 0)
    at_once = scores.normalise(usable)
    monkeypatch.setattr(scores, "_BLOCK", 4)
    assert np.array_equal(at_once, scores.normalise(usable))
    with pytest.raises(BenchError, match=r"row 5 holds only zeros \(2 such rows of 20\)"):
        scores.normalise(array)


def test_the_sweep_sets_ieee_products_and_gives_the_former_setting_back(galleries):
    arrays, relevance = galleries
    seen = []

    class Watched(np.ndarray):
        def __getitem__(self, index):
            seen.append(torch.backends.cuda.matmul.fp32_precision)
            return super().__getitem__(index)

    since = np.zeros(40, np.int64)
    generation = Generation(arrays[0], arrays[1].view(Watched), since, since + 1)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        relevant_ranks([generation], relevance, 1)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert set(seen) == {"ieee"}


@pytest.mark.parametrize("bits", [7, 10])
def test_the_sweep_refuses_products_that_are_rounded_all_the_same(galleries, monkeypatch, bits):
    """As with NVIDIA_TF32_OVERRIDE, which no setting of torch undoes."""
    arrays, relevance = galleries
    exact = torch.Tensor.__matmul__

    def rounded(left, right):
        mantissa, exponent = torch.frexp(left)
        return exact(torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent), right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with pytest.raises(BenchError, match="rounded to a shorter format"):
        backfill.search(arrays[0], arrays[1], relevance)


# ------------------------------------------------------------------------------------- training


def trained_with(name):
    image_set = images()
    subset, old = whole(image_set), make_embedder(RECIPE, 9).eval()
    context = with_old_context(subset, old, image_set)
    method = make_method(name)
    other = context.old_embeddings.flip(0)
    context = replace(
        context,
        new_width=RECIPE.width + method.extra_width,
        independent_embeddings=other,
        independent_head=context.old_head.flip(0),
    )
    wide = RECIPE.model_copy(update={"width": context.new_width})
    return make_task(method, context, wide)


@pytest.mark.parametrize("name", ["unibct", "bt2", "mixbct", "nccl"])
def test_what_prepare_remakes_is_in_no_state(name):
    learner = trained_with(name)
    as_made = AsMade(learner)
    kept = module_state(learner, as_made)["buffers"]
    assert not any("stored" in key for key in kept)
    for key, buffer in learner.named_buffers():
        if "stored" in key:
            buffer.data[0] += 1  # torch does not count what goes past it; the sum tells
            assert key in module_state(learner, as_made)["buffers"]


def test_embeddings_are_read_onto_a_device_block_by_block(gpu, monkeypatch):
    from bench.training import context

    monkeypatch.setattr(context, "ROWS", 3)
    array, rows = np.arange(40, dtype="f").reshape(20, 2), np.array([7, 1, 19, 3, 3])
    placed = rows_on(array, rows, GPU)
    assert on_gpu(placed)
    assert np.array_equal(placed.cpu().numpy(), array[rows])


def test_a_context_reads_no_embeddings_for_a_method_that_does_not():
    image_set = images()
    subset, old = whole(image_set), make_embedder(RECIPE, 9).eval()
    read = []
    context = with_old_context(subset, old, image_set)
    table = context.old_embeddings
    lazy = type(context)(**{**vars(context), "old_embeddings": lambda: read.append(1) or table})
    make_method("procrustes").prepare(lazy)
    make_method("ract").prepare(lazy)
    assert read == []
    assert lazy.old_embeddings is table
    assert lazy.old_embeddings is table
    assert read == [1]


# ------------------------------------------------------------------------------------- machines


def fails_once(task):
    """Meet a CUDA error the first time; answer with the process the second time."""
    number, folder = task
    mark = os.path.join(folder, str(number))
    if number == 1 and not os.path.exists(mark):
        with open(mark, "w"):
            pass
        raise MachineError("CUDA error: an illegal memory access was encountered")
    if number == 2:
        raise MachineError("CUDA out of memory")
    return number, os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_of_the_machine_are_tried_again_in_a_process_of_their_own(tmp_path, jobs):
    tasks = [(number, str(tmp_path)) for number in range(4)]
    with Workers(jobs=jobs, threads=1) as team:
        found = list(team.each(tasks, fails_once, lambda task, error: (task[0], str(error))))
    answers = dict(found)
    assert set(answers) == {0, 1, 2, 3}
    assert answers[2] == "CUDA out of memory"
    if jobs > 1:
        assert answers[1] not in (answers[0], os.getpid())


@pytest.mark.parametrize(
    ("error", "machines"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), True),
        (MemoryError(), True),
        (ValueError("CUDA error"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (BenchError("a method needs CUDA error bars"), False),
    ],
)
def test_which_failures_are_the_machines(error, machines):
    assert is_machines(error) == machines


def test_a_gpu_is_used_by_worker_processes_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not Workers(jobs=1, threads=1).here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Workers(jobs=1, threads=1).here


@pytest.mark.parametrize(
    ("answers", "settled"), [([True, True], "bfloat16"), ([True, False], "float32")]
)
def test_the_nodes_of_a_cluster_settle_the_precision(monkeypatch, answers, settled):
    monkeypatch.setattr(precision, "_elsewhere", None)
    monkeypatch.setattr(precision, "native_bfloat16", lambda: not all(answers))
    monkeypatch.setattr(cluster, "Cluster", lambda *_, **address: nullcontext(Nodes(answers)))
    suite, there = compose(load_suite("smoke")), ParallelRunOptions(engine="ray", address="head:1")
    ParallelRunOptions().settle_precision(suite)  # no cluster: this machine
    assert precision.resolve_precision("auto") != settled
    there.settle_precision(suite)
    assert precision.resolve_precision("auto") == settled


@dataclass
class Nodes:
    """Nodes of a cluster that answer as they are told."""

    answers: list[bool]

    def ask(self, question):
        assert question is precision.native_bfloat16
        return self.answers


def test_augmentation_is_timed_by_the_gpu_and_not_by_the_host(monkeypatch):
    clock = iter([1000.0, 1250.0, 2000.0, 2005.0])  # ms on the GPU, which lags behind

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def elapsed_time(self, later):
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    feed = Feed(torch.device("cuda"))
    for _ in range(2):
        with feed.timed("augmenting"):
            time.sleep(0.02)  # a launch: nothing that the GPU takes
    assert feed.seconds["augmenting"] == 0
    for _ in range(2):  # what was added is not added again
        feed.settle()
        assert feed.seconds["augmenting"] == pytest.approx(0.255)


def test_more_workers_than_gpus_are_spread_over_them(tmp_path, monkeypatch):
    monkeypatch.setattr(resources.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(resources, "_claims", [])
    given = []
    for _ in range(5):  # five processes, each of which sees two GPUs
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-a/1/0")
        resources.claim_gpus(1)
        given.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert given == ["3", "MIG-a/1/0", "3", "MIG-a/1/0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    resources.claim_gpus(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,4"


def test_memory_of_the_machine_bounds_cells_beside_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(resources, "free_memory", lambda: 13 << 30)
    assert resources.resources(0, 1, 1)[0] == 3
    assert resources.resources(0, 1, 2)[0] == 1
    monkeypatch.setattr(resources, "free_memory", lambda: 1 << 40)
    assert resources.resources(0, 1, 2)[0] == 4


@pytest.mark.parametrize(
    ("free", "expected"), [(1 << 40, (8, 4)), (64 << 20, (3, 2)), (4 << 20, (0, 4))]
)
def test_readers_fit_into_shared_memory(monkeypatch, free, expected):
    monkeypatch.setattr(resources, "free_shared_memory", lambda: free)
    readers, ahead = resources.reading_ahead(8, 4, 5 << 20)
    assert (readers, ahead) == expected
    assert readers * ahead * (5 << 20) <= free


def test_readers_get_less_than_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "SHARED_MEMORY", str(tmp_path))
    assert 0 < resources.free_shared_memory() < 1 << 62
    monkeypatch.setattr(resources, "SHARED_MEMORY", str(tmp_path / "nowhere"))
    assert resources.free_shared_memory() == 1 << 62


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_indexes_are_served_on_several_gpus(monkeypatch, factory):
    """Replicas on two GPUs, here on the CPU: FAISS gives them no ids of their own."""

    def replicas(index):
        both = faiss.IndexReplicas()
        for _ in range(2):
            each = faiss.clone_index(index)
            each.this.disown()
            both.addIndex(each)
        both.own_indices = True
        return both

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", replicas)
    gallery = np.random.default_rng(0).normal(size=(200, 8)).astype("f")
    index = UpdatableIndex(factory, gallery, "nprobe=4" if "IVF" in factory else "")
    changed = gallery[::-1].copy()
    index.update(np.arange(3), changed)
    found = index.search(scores.normalise(changed[:3]), 1)[:, 0]
    assert set(found[:3]) <= {0, 1, 2, 197, 198, 199}
