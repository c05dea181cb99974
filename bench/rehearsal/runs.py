"""Steps that make whole runs: every method, a poisoned plug-in, a killed training, two devices."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.authoring.toy_upgrade import SITUATIONS, Upgrade
from bench.errors import BenchError
from bench.execution.limits import end_with_parent
from bench.pipeline.finished import WEIGHTS
from bench.pipeline.make import Maker
from bench.pipeline.outcomes import Outcome
from bench.pipeline.specs import CellSpec, ModelSpec
from bench.plugins import registry
from bench.rehearsal.stand import Report, Stand
from bench.rehearsal.verdict import Finding, judged
from bench.storage.files import write_text
from bench.storage.results import checkpoint_path
from bench.storage.store import Store

WIDER = next(each for each in SITUATIONS if each.old_width < each.new_width)
TRAINED = "contrastive"  # has negatives in the batch, so that devices must share it
EPOCHS = 400  # of the training that is killed: more than are done before it is
STATES = 0.2  # seconds between two of them
PATIENCE = 300.0  # seconds until a training has kept its first state
RELATIVE, ABSOLUTE = 1e-2, 1e-3  # sums of two devices are rounded in another order
# A plug-in of another package: an index beyond the batch is a device-side assert on a GPU, after
# which the process can use it no more. A pretended GPU says what CUDA would.
POISON = '''"""A method whose loss breaks the GPU."""

import torch

from bench.protocol import Method


class Poison(Method):
    def loss(self, step):
        beyond = torch.full((1,), 1 << 20, device=step.new.device)
        try:
            return {"poison": step.new[beyond].sum() + step.new.sum().item()}
        except IndexError as error:
            raise RuntimeError("CUDA error: device-side assert triggered") from error
'''


def methods(stand: Stand, report: Report) -> Finding:
    """Train, fit, embed and search every method."""
    return _told(stand.run("methods", stand.plan(stand.methods), report))


def wider(stand: Stand, report: Report) -> Finding:
    """Do the same where the new embedding is wider than the old one."""
    refusing = [name for name in stand.methods if _refuses(name)]
    left = tuple(name for name in stand.methods if name not in refusing)
    if not left:
        return Finding("left out", f"{', '.join(refusing)} need embeddings of one width")
    narrow = ("old.width=8",) if stand.small else ()
    outcomes = stand.run("wider", stand.plan(left, "wider-embedding", *narrow), report)
    return _told(outcomes, refusing)


def _refuses(name: str) -> bool:
    """Whether a method says that it cannot be used with a wider embedding."""
    try:
        Upgrade(lambda: registry.make_method(name), WIDER)
    except BenchError:
        return True
    return False


def _told(outcomes: Sequence[Outcome], refusing: Sequence[str] = ()) -> Finding:
    broken = {
        each.spec.cell.method: each.error
        for each in outcomes
        if isinstance(each.spec, CellSpec) and each.status == "failed"
    }
    words = f"{len(outcomes) - len(broken)} of {len(outcomes)} methods made their records"
    if refusing:
        words += f"; {len(refusing)} need embeddings of one width"
    words += "".join(f"; {name}: {error}" for name, error in broken.items())
    return judged(not broken, words, failed=broken, refusing=list(refusing))


def poisoned(stand: Stand, report: Report) -> Finding:
    """Run a plug-in that breaks the GPU between two good ones."""
    package = stand.folder / "poisoned-package"
    write_text(package / "poison_of_rehearsal.py", POISON)
    about = package / "poison_of_rehearsal-1.dist-info"
    write_text(about / "METADATA", "Metadata-Version: 2.1\nName: poison-of-rehearsal\nVersion: 1\n")
    write_text(about / "entry_points.txt", "[bench.methods]\npoison = poison_of_rehearsal\n")
    sys.path.insert(0, str(package))
    former = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), former]))  # for workers
    outcomes = stand.run("poisoned", stand.plan(("independent", "poison", "l2")), report)
    first, bad, last = (each.status for each in outcomes)
    kept = outcomes[1].transient
    words = (
        f"the plug-in {'failed as the machine' if kept else bad}; the run before it is {first}, "
        f"the one after it is {last}"
    )
    good = (first, bad, last) == ("done", "failed", "done") and kept
    return judged(good, words, error=outcomes[1].error)


def resume(stand: Stand, report: Report) -> Finding:
    """Kill a training with SIGKILL, go on, and compare with one that was left alone."""
    spec = stand.plan((TRAINED,), "extended-class", f"epochs={EPOCHS if stand.small else 60}")[0]
    model = spec.new.deployed
    report("a training that is left alone")
    whole = _weights(stand, "whole", model)
    killed, state = stand.folder / "killed", checkpoint_path(stand.folder / "killed", model.key)
    child = _start(stand, killed, model)
    _wait(lambda: state.exists() or not child.is_alive(), "the first state of a training", report)
    child.kill()
    child.join()
    if child.exitcode != -signal.SIGKILL:
        return Finding("failed", "the training ended before it was killed, or kept no state")
    report("the training that was killed goes on")
    resumed = _weights(stand, "killed", model)
    apart = max(_apart(whole[name], resumed[name]) for name in whole)
    words = "the training that was killed ended with the weights of the one left alone"
    if apart:
        words = f"the weights after a kill differ by up to {apart:.2g} from those without"
    return judged(apart == 0, words, largest_difference=apart, exit_code=child.exitcode)


def devices(stand: Stand, report: Report) -> Finding:
    """Train and embed with two devices and with one; weights agree."""
    if stand.gpus == 1:
        return Finding("left out", "two devices against one: there is one GPU here")
    settings = ("backbone=test_convnext", "image_size=32", "pretrained=false", "epochs=2")
    model = stand.plan((TRAINED,), "extended-class", *settings, "precision=float32")[0]
    spec = model.new.deployed
    weights = []
    for count in (1, 2):
        report(f"training on {count} device{'s' if count > 1 else ''}")
        store = Store(stand.folder / f"devices-{count}")
        store.open()
        accelerator = "cpu" if stand.pretended else "cuda"
        folder = Maker(store, accelerator=accelerator, devices=count).make(spec)
        weights.append(load_file(folder / WEIGHTS))
    one, two = weights
    apart = max(_apart(one[name], two[name]) for name in one)
    close = all(torch.allclose(two[name], one[name], RELATIVE, ABSOLUTE) for name in one)
    which = "two processes of the CPU" if stand.pretended else "two GPUs"
    words = f"weights of {which} differ by up to {apart:.2g} from those of one"
    return judged(close, words, largest_difference=apart)


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def _weights(stand: Stand, name: str, model: ModelSpec) -> dict[str, torch.Tensor]:
    """Train to the end in a process of its own; read the weights."""
    folder = stand.folder / name
    child = _start(stand, folder, model)
    child.join()
    if child.exitcode:
        raise BenchError(f"a training in a process of its own ended with {child.exitcode}")
    store = Store(folder)
    return load_file(store.path(model.stage, model.key) / WEIGHTS)


def _start(stand: Stand, folder: Path, model: ModelSpec) -> multiprocessing.process.BaseProcess:
    child = multiprocessing.get_context("spawn").Process(target=_train, args=(stand, folder, model))
    child.start()
    return child


def _train(stand: Stand, folder: Path, model: ModelSpec) -> None:
    """Train in this process, keeping states often."""
    end_with_parent()
    torch.set_num_threads(1)
    # Sums in an order of their own would differ in the last bits from one training to the next.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    store = Store(folder)
    store.open()
    with stand.device():
        Maker(store, checkpoint_seconds=STATES).make(model)


def _wait(ready: Callable[[], bool], what: str, report: Report) -> None:
    report(f"waiting for {what}")
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not come within {PATIENCE:.0f} seconds")
        time.sleep(0.02)
