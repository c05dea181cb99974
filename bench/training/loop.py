"""The one training loop, shared by every method; it knows no method by name."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from bench.data.splits import Subset
from bench.errors import BenchError
from bench.protocol import Context, ImageSet
from bench.suites.schema import Recipe
from bench.training.batches import Feed, batches, batches_per_epoch
from bench.training.checkpoint import (
    AsMade,
    Checkpoint,
    module_state,
    random_state,
    restore_module,
    restore_random,
)
from bench.training.distributed import prepare_distributed
from bench.training.learner import Learner

Progress = Callable[[int, int], None]
LEAST = 0.01  # of the learning rate, at the end of the cosine


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


def train(
    fabric: Fabric,
    learner: Learner,
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
    """Train `learner` on `subset` of `images`; raises NonFiniteLossError naming step and term.

    With a checkpoint, a training that was cut off goes on after the last step it holds and ends
    with the weights of one that never was. `readers` processes decode images ahead.
    """
    steps, size = batches_per_epoch(subset, recipe), min(recipe.batch_size, len(subset))
    feed = Feed(fabric.device, fabric.global_rank, fabric.world_size, readers)
    prepare_distributed(fabric, learner, size)
    learner.epochs = recipe.epochs
    optimizer = _optimizer(learner.to(fabric.device), recipe)
    schedule = _schedule(optimizer, recipe, steps)
    model, optimizer = fabric.setup(learner, optimizer)
    training = _LoopState(learner, optimizer, schedule, History(), fabric)
    if checkpoint is not None:
        training.resume(checkpoint)
    keep = checkpoint if fabric.is_global_zero else None
    history, first_epoch = training.history, len(training.history.terms)
    model.train()
    for epoch in range(first_epoch, recipe.epochs):
        started, losses = time.perf_counter() - training.spent, training.losses
        first = len(losses)
        for index, batch in enumerate(
            batches(images, subset, recipe, seed, epoch, feed, first), first
        ):
            progress = (epoch * steps + index) / (recipe.epochs * steps)
            terms = model(*batch, context, old_model, progress, epoch)
            fabric.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(torch.stack([term.detach() for term in terms.values()]))
            if keep is not None and index + 1 < steps and keep.due():
                training.spent = time.perf_counter() - started
                keep.write(training.state())
        history.terms.append(_epoch_means(list(terms), torch.stack(losses), epoch * steps))
        history.seconds.append(time.perf_counter() - started)
        training.losses, training.spent = [], 0.0
        feed.settle()
        if epoch == first_epoch < recipe.epochs - 1:
            feed.seconds = dict.fromkeys(feed.seconds, 0.0)  # the first epoch is warm-up
        report(epoch + 1, recipe.epochs)
        if keep is not None and keep.due():
            keep.write(training.state())
    history.rates = _rates(feed, steps * size, history.seconds, first_epoch)
    model.eval()
    with torch.no_grad():
        learner.head.copy_(learner.method.classifier(learner.head))
    return history


@dataclass
class _LoopState:
    """All that changes from step to step; `losses` and `spent` seconds are those of an epoch."""

    learner: Learner
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LRScheduler
    history: History
    fabric: Fabric
    losses: list[Tensor] = field(default_factory=list)
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.as_made = AsMade(self.learner)

    def state(self) -> dict[str, Any]:
        return {
            "learner": module_state(self.learner, self.as_made),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random_state(self.fabric.device),
            "terms": self.history.terms,
            "seconds": self.history.seconds,
            "losses": torch.stack(self.losses).cpu() if self.losses else None,
            "spent": self.spent,
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to the state that the checkpoint holds, if it fits every rank.

        Each rank reads it; where one cannot, all of them start over.
        """
        start, error, state = copy.deepcopy(self.state()), None, None
        try:
            state = checkpoint.load()
            if state is not None:
                self.restore(state)
        except Exception as found:  # a foreign state may misfit in any way, and half-way through
            error = found
        usable = state is not None and error is None
        if usable and self._all_are(True):
            return
        if not usable:
            self._all_are(False)
        self.restore(start)
        if error is not None and self.fabric.is_global_zero:
            checkpoint.refuse(error)

    def _all_are(self, usable: bool) -> bool:
        """Return whether every rank found a state that it can use, at the same step."""
        place = (len(self.history.terms), len(self.losses)) if usable else (-1, -1)
        mine = torch.tensor(place, device=self.fabric.device)
        every: Any = self.fabric.all_gather(mine)
        return bool((every.reshape(-1, 2) == mine).all())

    def restore(self, state: dict[str, Any]) -> None:
        restore_module(self.learner, state["learner"], self.as_made)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        restore_random(state["random"], self.fabric.device)
        self.history.terms, self.history.seconds = list(state["terms"]), list(state["seconds"])
        losses = state["losses"]
        self.losses = [] if losses is None else list(losses.to(self.fabric.device))
        self.spent = state["spent"]


def _optimizer(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimiser that the recipe names; biases and norms decay only if it says so.

    Raises BenchError for one that timm does not know or cannot make.
    """
    try:
        return create_optimizer_v2(
            learner,
            opt=recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            filter_bias_and_bn=recipe.decays == "weights",
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise BenchError(
            f"optimizer = '{recipe.optimizer}' cannot be made ({error}); expected a name that "
            "`timm.optim.list_optimizers()` lists, with settings that it takes"
        ) from error


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then a cosine down to 1 % of the learning rate."""
    warmup = max(1, round(recipe.warmup_epochs * steps))
    whole = recipe.epochs * steps
    first = 1 / warmup if recipe.warmup_from is None else recipe.warmup_from
    if recipe.cosine_over == "whole":
        return LambdaLR(optimizer, partial(_share_of_rate, warmup=warmup, whole=whole, first=first))
    return SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, start_factor=first, total_iters=warmup),
            CosineAnnealingLR(
                optimizer, max(1, whole - warmup), eta_min=LEAST * recipe.learning_rate
            ),
        ],
        milestones=[warmup],
    )


def _share_of_rate(step: int, warmup: int, whole: int, first: float) -> float:
    """Share of the learning rate at a step, of a cosine that runs as if nothing were warmed up."""
    if step < warmup:
        return first + (1 - first) * step / warmup
    return LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * step / whole))


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
