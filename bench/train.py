"""The one training loop, shared by every method; it knows no method by name."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from bench.batches import Feed, Subset, batches, batches_per_epoch
from bench.checkpoint import (
    Checkpoint,
    module_state,
    random_state,
    restore_module,
    restore_random,
)
from bench.errors import BenchError
from bench.models import Embedder
from bench.protocol import Context, ImageSet, Method, Step
from bench.ranks import spread
from bench.suite import Recipe

Progress = Callable[[int, int], None]


class NonFiniteLossError(BenchError):
    """A loss term became NaN or infinite."""


@dataclass
class History:
    """Mean of every loss term and the seconds of each epoch, and what limits its speed.

    `rates` are images per second: `train` of the median epoch without the first, and those that
    `read` (decoding included), `augment` and `model` would reach alone.
    """

    terms: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)


class Task(nn.Module):
    """Everything that learns; its forward pass turns a batch into named loss terms."""

    def __init__(self, embedder: Embedder, head: nn.Parameter, method: Method) -> None:
        super().__init__()
        self.embedder, self.head, self.method = embedder, head, method
        self.whole: Callable[[Tensor], Tensor] = lambda part: part  # of a batch on one device

    def forward(
        self,
        images: Tensor,
        rows: Tensor,
        labels: Tensor,
        context: Context,
        old_model: nn.Module | None,
        progress: float,
        epoch: int,
    ) -> dict[str, Tensor]:
        """Return scalar terms whose sum is the loss; `classification` is always among them."""
        step = Step(
            images,
            rows,
            labels,
            self.whole(self.embedder(images)),
            self.method.classifier(self.head),
            old_model,
            context,
            progress,
            epoch,
            self.whole,
        )
        terms = self.method.loss(step)
        return (
            terms if "classification" in terms else {"classification": step.classification, **terms}
        )


def train(
    fabric: Fabric,
    task: Task,
    images: ImageSet,
    subset: Subset,
    context: Context,
    old_model: nn.Module | None,
    recipe: Recipe,
    seed: int,
    report: Progress,
    checkpoint: Checkpoint | None = None,
    readers: int = 0,
) -> History:
    """Train `task` on `subset` of `images`; raises NonFiniteLossError naming step and term.

    With a checkpoint, a training that was cut off goes on after the last epoch it holds and ends
    with the weights of one that never was. `readers` processes decode images ahead.
    """
    steps, size = batches_per_epoch(subset, recipe), min(recipe.batch_size, len(subset))
    feed = Feed(fabric.device, fabric.global_rank, fabric.world_size, readers)
    spread(fabric, task, size)
    optimizer = _optimizer(task, recipe)
    schedule = _schedule(optimizer, recipe, steps)
    model, optimizer = fabric.setup(task, optimizer)
    training = _Training(task, optimizer, schedule, History())
    if checkpoint is not None:
        training.resume(checkpoint)
    history, first_epoch = training.history, len(training.history.terms)
    model.train()
    for epoch in range(first_epoch, recipe.epochs):
        started, losses = time.perf_counter(), []
        for index, batch in enumerate(batches(images, subset, recipe, seed, epoch, feed)):
            progress = (epoch * steps + index) / (recipe.epochs * steps)
            terms = model(*batch, context, old_model, progress, epoch)
            fabric.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(torch.stack([term.detach() for term in terms.values()]))
        history.terms.append(_epoch_means(list(terms), torch.stack(losses), epoch * steps))
        history.seconds.append(time.perf_counter() - started)
        if epoch == first_epoch < recipe.epochs - 1:
            feed.seconds = dict.fromkeys(feed.seconds, 0.0)  # the first epoch is warm-up
        report(epoch + 1, recipe.epochs)
        if checkpoint is not None and fabric.is_global_zero and checkpoint.due():
            checkpoint.write(training.state())
    history.rates = _rates(feed, steps * size, history.seconds, first_epoch)
    model.eval()
    with torch.no_grad():
        task.head.copy_(task.method.classifier(task.head))
    return history


@dataclass
class _Training:
    """All that changes from epoch to epoch."""

    task: Task
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LRScheduler
    history: History

    def state(self) -> dict[str, Any]:
        return {
            "task": module_state(self.task),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random_state(),
            "terms": self.history.terms,
            "seconds": self.history.seconds,
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to the state that the checkpoint holds, if it holds one that fits."""
        state = checkpoint.read()
        if state is None:
            return
        start = copy.deepcopy(self.state())
        try:
            self.restore(state)
        except Exception as error:  # a foreign state may misfit in any way, and half-way through
            self.restore(start)
            checkpoint.refuse(error)

    def restore(self, state: dict[str, Any]) -> None:
        restore_module(self.task, state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        restore_random(state["random"])
        self.history.terms, self.history.seconds = list(state["terms"]), list(state["seconds"])


def _optimizer(task: Task, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimiser that the recipe names, without weight decay on biases and norms."""
    return create_optimizer_v2(
        task,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then a cosine down to 1 % of the learning rate."""
    warmup = max(1, round(recipe.warmup_epochs * steps))
    rest = max(1, recipe.epochs * steps - warmup)
    return SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup),
            CosineAnnealingLR(optimizer, rest, eta_min=0.01 * recipe.learning_rate),
        ],
        milestones=[warmup],
    )


def _epoch_means(names: list[str], losses: Tensor, first_step: int) -> dict[str, float]:
    """Average `losses` [steps, terms]; checked once an epoch: no step waits for it."""
    faults = (~torch.isfinite(losses)).nonzero()
    if len(faults):
        step, term = faults[0].tolist()
        raise NonFiniteLossError(
            f"loss term '{names[term]}' is {losses[step, term].item()} at step {first_step + step}"
        )
    return dict(zip(names, losses.mean(0).tolist(), strict=True))


def _rates(feed: Feed, images: int, seconds: list[float], first_epoch: int) -> dict[str, float]:
    """Images per second of epochs of `images` each, the first one that was done left out.

    Of epochs before `first_epoch`, which another process did, the times are known as wholes.
    """
    kept, taken = sorted(seconds[1:] or seconds), seconds[first_epoch:]
    taken = taken[1:] or taken
    seen = images * len(taken)
    busy = {
        "read": feed.seconds["reading"] / max(1, feed.readers),
        "augment": feed.seconds["augmenting"],
        "model": sum(taken) - feed.seconds["waiting"] - feed.seconds["augmenting"],
    }
    stages = {stage: seen / spent for stage, spent in busy.items() if seen and spent > 0}
    return {"train": images / kept[len(kept) // 2], **stages}
