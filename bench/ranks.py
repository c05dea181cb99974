"""One model on several devices: a process (rank) for each, all working on the same batch.

Every rank embeds its part of a batch, the parts are joined, and every rank computes the loss of
the whole batch. Data-parallel averaging of the gradients then gives exactly those of one process:
methods need not know, and the negatives of a batch are those of all ranks.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from bench.errors import BenchError
from bench.workers import listening

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
        start_method="spawn",
        find_unused_parameters=True,  # a method may leave its own out of some losses
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
            raise BenchError(f"one of {devices} devices failed: {last}") from error
        finally:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
    return results[0]


def _work_on_rank(
    threads: int,
    channel: Any,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    fabric: Fabric,
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)

    def tell(kind: str, content: Any) -> None:
        if fabric.is_global_zero:
            channel.put((kind, content))

    tell("result", work(fabric, lambda *told: tell("report", told), *arguments))


def _end_with_parent() -> None:
    """A rank whose parent was killed would wait for nobody, and hold its device."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def whole_batch(fabric: Fabric, part: Tensor) -> Tensor:
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


def spread(fabric: Fabric, task: Any, size: int) -> None:
    """Make a task compute the loss of whole batches of `size` images that all ranks share.

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
    task.whole = partial(whole_batch, fabric)
    if ranks > 1 and fabric.device.type == "cuda":
        convert_sync_batchnorm(task)  # type: ignore[no-untyped-call]
