"""One model on several devices: a process (rank) for each, all working on the same batch.

Every rank embeds its part of a batch, the parts are joined, and every rank computes the loss of
the whole batch. Data-parallel averaging of the gradients then gives exactly those of one process:
methods need not know, and the negatives of a batch are those of all ranks.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)
from lightning_fabric.strategies.ddp import DDPStrategy
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from bench.errors import BenchError
from bench.execution.limits import end_with_parent
from bench.execution.machine import MachineError, is_machines
from bench.execution.messages import listening
from bench.training.checkpoint import remade_buffers

Report = Callable[[str, int, int], None]  # stage, done, total
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets at every start


def launch(
    devices: int,
    accelerator: str,
    report: Report,
    work: Callable[..., Any],
    *arguments: Any,
) -> Any:
    """Do `work(fabric, report, *arguments)` on every device; return what the first one returns.

    Processes are spawned, so that `work` and its arguments must be importable and picklable; what
    the first process reports is told to `report` here. Raises BenchError with the sentence of a
    process that failed; the others are ended with it.
    """
    strategy = DDPStrategy(
        cluster_environment=OwnProcesses(),
        start_method="spawn",
        find_unused_parameters=True,  # a method may leave its own out of some losses
        broadcast_buffers=False,  # every rank makes and updates them from the same batches
    )
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
    others, results = set(multiprocessing.active_children()), list[Any]()
    hear = {"report": lambda told: report(*told), "result": results.append}
    # Fabric's own way back for results is read after its processes have ended; it holds 64 KiB.
    channel = multiprocessing.get_context("spawn").SimpleQueue()
    with listening(channel, lambda message: hear[message[0]](message[1])):
        try:
            threads = torch.get_num_threads()
            fabric.launch(partial(_work_on_rank, threads, channel, work, arguments))
        except ProcessRaisedException as error:
            last = str(error).strip().splitlines()[-1]
            kind = MachineError if is_machines(last) else BenchError
            raise kind(f"one of {devices} devices failed: {last}") from error
        finally:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
    return results[0]


class OwnProcesses(LightningEnvironment):
    """Ranks are the processes that `launch` starts here, whatever the environment speaks of.

    Inside a job of SLURM, torchrun or MPI, variables name the ranks of *its* processes: taken for
    ours, every rank would believe that it is alone.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """State that nobody else has started the other ranks."""
        return False

    @property
    def main_address(self) -> str:
        """Where ranks meet: on this machine."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Port at which they meet: a free one, the same for all."""
        if self._main_port == -1:
            self._main_port = find_free_network_port()
        return self._main_port

    def node_rank(self) -> int:
        """Number of this machine, the only one."""
        return 0


def one_device(accelerator: str) -> Fabric:
    """Work on one device in this process, also inside a job that speaks of many."""
    return Fabric(accelerator=accelerator, devices=1, plugins=OwnProcesses())


def _work_on_rank(
    threads: int,
    channel: Any,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    fabric: Fabric,
) -> None:
    end_with_parent()  # a rank would wait for nobody, and hold its device
    torch.set_num_threads(threads)

    def tell(kind: str, content: Any) -> None:
        if fabric.is_global_zero:
            channel.put((kind, content))

    tell("result", work(fabric, lambda *told: tell("report", told), *arguments))


def gather(fabric: Fabric, part: Tensor) -> Tensor:
    """Join the parts [b, D] of all ranks, in their order, to [B, D]; gradients flow to one's own.

    Data-parallel training averages gradients over ranks, each of which has those of its part of
    the one loss: they are multiplied by the number of ranks here, so that the average is the sum.
    """
    ranks = fabric.world_size
    if ranks == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(ranks)]
    torch.distributed.all_gather(parts, part.detach().contiguous())
    if part.requires_grad:
        part.register_hook(lambda gradient: gradient * ranks)  # type: ignore[no-untyped-call]
        parts[fabric.global_rank] = part
    return torch.cat(parts)


def prepare_distributed(fabric: Fabric, learner: Any, size: int) -> None:
    """Make a learner compute the loss of whole batches of `size` images that all ranks share.

    On GPUs, batch normalisation sees the whole batch as well; torch cannot do that on CPUs, where
    each rank normalises by its own part. Raises BenchError for a batch that cannot be divided
    equally.
    """
    ranks = fabric.world_size
    if size % ranks:
        raise BenchError(
            f"a batch of {size} images cannot be divided equally among {ranks} devices; "
            f"choose a batch_size that is a multiple of {ranks}"
        )
    learner.gather = partial(gather, fabric)
    if ranks > 1:
        # Data-parallel training sends parameters and buffers to all ranks at its start.
        wrapper: Any = torch.nn.parallel.DistributedDataParallel
        wrapper._set_params_and_buffers_to_ignore_for_model(learner, remade_buffers(learner))
    if ranks > 1 and fabric.device.type == "cuda":
        # A method sees the whole batch on every rank already.
        learner.embedder = convert_sync_batchnorm(learner.embedder)  # type: ignore[no-untyped-call]
