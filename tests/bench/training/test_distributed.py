"""Several devices for one model: the mathematics of one process, over two that really run."""

import multiprocessing

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from bench.errors import BenchError
from bench.pipeline.plan import make_plan
from bench.plugins.registry import make_method
from bench.storage.store import Store
from bench.suites.loading import compose
from bench.training.batches import Feed, batches
from bench.training.checkpoint import Checkpoint
from bench.training.distributed import launch, one_device, prepare_distributed
from bench.training.embed import embed, load
from bench.training.loop import History, _LoopState
from bench.training.models import make_embedder
from tests.bench.pipeline.test_stages import CONTENT
from tests.bench.stages import Stages
from tests.bench.toys import RECIPE, images, make_task, whole, with_old_context

# Layer normalisation looks at one image alone; torch shares batch statistics between GPUs only.
RECIPE2 = RECIPE.model_copy(update={"backbone": "test_convnext", "image_size": 32})
SUITE = {**CONTENT, "recipe": {**CONTENT["recipe"], "backbone": "test_convnext", "image_size": 32}}


def two_steps(fabric, report, names):
    """Loss terms and gradients of each method's first step, and weights after the second."""
    found = {}
    for name in names:
        image_set = images(size=32)
        subset, old = whole(image_set), make_embedder(RECIPE2, 9).eval().requires_grad_(False)
        context = with_old_context(subset, old, image_set, RECIPE2)
        torch.manual_seed(0)
        task = make_task(make_method(name), context, RECIPE2)
        prepare_distributed(fabric, task, RECIPE2.batch_size)
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        model, optimizer = fabric.setup(task, optimizer)
        feed = Feed(part=fabric.global_rank, parts=fabric.world_size)
        for batch in batches(image_set, subset, RECIPE2, 0, 0, feed):
            optimizer.zero_grad()
            terms = model(*batch, context, old, 0.5, 1)
            fabric.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            steps = found.setdefault(name, [])
            steps.append({term: value.item() for term, value in terms.items()})
            steps[-1] |= {
                key: value.grad.numpy().copy()
                for key, value in task.named_parameters()
                if value.grad is not None
            }
            report(name, len(steps), 2)
            if len(steps) == 2:
                break
    return found


def test_gradients_of_two_processes_are_those_of_one():
    # Negatives in the batch, a queue, statistics of the batch, a critic, and none of them.
    names = ["ract", "contrastive", "nccl", "triplet", "lce", "advbct", "l2", "independent"]
    told = []
    shared = launch(2, "cpu", lambda *progress: told.append(progress), two_steps, names)
    alone = two_steps(Fabric(accelerator="cpu", devices=1), lambda *progress: None, names)
    assert told == [(name, step, 2) for name in names for step in (1, 2)]
    for name in names:
        for one, two in zip(alone[name], shared[name], strict=True):
            assert set(one) == set(two)
            for part, value in one.items():
                scale = np.abs(value).max()
                np.testing.assert_allclose(
                    two[part], value, atol=2e-4 * scale + 1e-5, err_msg=f"{name}: {part}"
                )


def embed_all(fabric, report, path):
    embedder = make_embedder(RECIPE2, 1)
    return embed(fabric, embedder, images(classes=100, each=9, size=32), RECIPE2.width, path)


def test_embeddings_of_two_processes_are_one_array(tmp_path):
    launch(2, "cpu", print, embed_all, tmp_path / "two.npy")
    embed_all(Fabric(accelerator="cpu", devices=1), print, tmp_path / "one.npy")
    one, two = load(tmp_path / "one.npy"), load(tmp_path / "two.npy")
    assert one.shape == (900, 16)
    assert np.array_equal(one, two)


def test_a_model_of_two_devices_is_that_of_one(tmp_path):
    spec = make_plan(compose(SUITE, ["epochs=2"], methods=("ract",)))[0].new
    weights, told = [], []
    for devices in (1, 2):
        store = Store(tmp_path / str(devices))
        store.open()
        stages = Stages(
            store, lambda *progress: told.append(progress), accelerator="cpu", devices=devices
        )
        weights.append(stages.weights(spec))
        assert stages.load(spec, "query").shape == (len(stages.data(spec).query), 16)
        assert stages.finished.model_metadata(spec).provenance.devices == devices
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-3, rtol=1e-2, msg=name)


def fail(fabric, report):
    if fabric.global_rank == 1:
        raise ValueError("no room left")
    fabric.barrier()


def test_a_failing_rank_is_one_sentence_and_ends_the_others():
    with pytest.raises(BenchError, match="one of 2 devices failed: ValueError: no room left"):
        launch(2, "cpu", print, fail)
    assert not multiprocessing.active_children()


def test_a_batch_that_cannot_be_divided_is_refused():
    class Three:
        world_size = 3

    with pytest.raises(BenchError, match="16 images cannot be divided equally among 3 devices"):
        prepare_distributed(Three(), None, 16)


JOB = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
    **{"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "nowhere"},
    **{"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "3", "WORLD_SIZE": "1"},
    **{"MASTER_ADDR": "nowhere", "MASTER_PORT": "1"},
}


def resumed_draws(fabric, report, path, method):
    """Go on from a state; how many ranks there are, and what each draws next."""
    image_set = images(size=32)
    subset, old = whole(image_set), make_embedder(RECIPE2, 9).eval().requires_grad_(False)
    torch.manual_seed(fabric.global_rank)
    task = make_task(
        make_method(method), with_old_context(subset, old, image_set, RECIPE2), RECIPE2
    )
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
    training = _LoopState(task, optimizer, schedule, History(), fabric)
    checkpoint = Checkpoint(path, "key", 0)
    if path.exists():
        training.resume(checkpoint)
    else:
        checkpoint.write(training.state())
    return fabric.world_size, fabric.all_gather(torch.rand(1)).reshape(-1).tolist()


def test_resumed_ranks_draw_alike_also_inside_a_job_and_from_a_state_of_one(tmp_path, monkeypatch):
    one = one_device("cpu")
    _, drawn = resumed_draws(one, print, tmp_path / "c.pt", "mixbct")
    torch.manual_seed(5)
    assert resumed_draws(one, print, tmp_path / "c.pt", "mixbct") == (1, drawn)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert one_device("cpu").world_size == 1
    assert launch(2, "cpu", print, resumed_draws, tmp_path / "c.pt", "mixbct") == (2, 2 * drawn)
