"""What the harness costs over a bare PyTorch loop with the same mathematics, and over embedding.

`pytest tests/benchmarks/test_training.py -m '' --benchmark-enable -s` prints images/s and ratios.
With the memory settings that workers have (`MEMORY_VARIABLES` of `bench/workers.py`) rounds differ
less.
"""

import statistics
import time

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from bench.data.splits import choose
from bench.plugins.registry import make_method
from bench.seeds import derive_seed
from bench.suites.schema import Recipe, Side
from bench.training.batches import augment, batches_per_epoch
from bench.training.embed import embed
from bench.training.loop import _schedule, train
from bench.training.models import make_embedder, make_head
from tests.bench.toys import images, make_task, no_old_context, with_old_context

RECIPE = Recipe(epochs=2, flip=0)
IMAGES = images(classes=64, each=12, size=RECIPE.image_size)
SUBSET = choose(IMAGES.labels, Side(), 0)
ROUNDS = 15


def harness():
    context = no_old_context(SUBSET, RECIPE)
    task = make_task(make_method("independent"), context, RECIPE)
    fabric = Fabric(accelerator="cpu", devices=1)
    started = time.perf_counter()
    train(fabric, task, IMAGES, SUBSET, context, None, RECIPE, 0, lambda done, total: None)
    return time.perf_counter() - started, task.embedder


def bare():
    """The same training of a plain classifier, written out."""
    embedder, head = make_embedder(RECIPE, 1), make_head(len(SUBSET.classes), RECIPE.width, 2)
    decayed = [p for p in [*embedder.parameters(), head] if p.ndim > 1]
    plain = [p for p in embedder.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": RECIPE.weight_decay}, {"params": plain}],
        lr=RECIPE.learning_rate,
        momentum=RECIPE.momentum,
        nesterov=True,
    )
    schedule = _schedule(optimizer, RECIPE, batches_per_epoch(SUBSET, RECIPE))
    labels = torch.from_numpy(SUBSET.labels)
    embedder.train()
    started = time.perf_counter()
    for epoch in range(RECIPE.epochs):
        generator = torch.Generator().manual_seed(derive_seed("batches", 0, epoch))
        order = torch.randperm(len(SUBSET), generator=generator)
        for step in range(batches_per_epoch(SUBSET, RECIPE)):
            rows = order[step * RECIPE.batch_size : (step + 1) * RECIPE.batch_size]
            batch = augment(IMAGES.images.pixels[rows], RECIPE, generator)
            new = embedder(batch)
            logits = new @ functional.normalize(head, dim=1).T / RECIPE.temperature
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return time.perf_counter() - started, embedder


@pytest.mark.slow
@pytest.mark.benchmark(group="training")
def test_the_loop_against_a_bare_loop(benchmark):
    seen = batches_per_epoch(SUBSET, RECIPE) * RECIPE.batch_size * RECIPE.epochs
    harness(), bare()  # warm-up
    pairs = []

    def both():
        (ours, one), (theirs, other) = harness(), bare()
        pairs.append((ours, theirs))
        # The bare loop is a fair yardstick only if it learns the very same.
        for mine, yours in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-3)

    benchmark.pedantic(both, rounds=ROUNDS)
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    ours = seen / statistics.median(ours for ours, _ in pairs)
    benchmark.extra_info |= {"images_per_s": ours, "speed_over_bare": statistics.median(ratios)}
    print(
        f"\n{ours:.0f} images/s, {statistics.median(ratios):.3f} × a bare loop "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {ROUNDS} rounds)"
    )


@pytest.mark.benchmark(group="training")
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["independent", "ract"])
def test_epoch(benchmark, name, precision):
    """One epoch of the loop, with the old model's forward pass where the method reads it."""
    recipe = RECIPE.model_copy(update={"epochs": 1, "precision": precision})
    old_model = make_embedder(recipe, 0).eval().requires_grad_(False)
    context = with_old_context(SUBSET, old_model, IMAGES, recipe)
    fabric = Fabric(accelerator="cpu", devices=1)

    def fresh():
        task = make_task(make_method(name), context, recipe)
        settings = context, old_model, recipe, 0, lambda done, total: None
        return (fabric, task, IMAGES, SUBSET, *settings), {}

    history = benchmark.pedantic(train, setup=fresh, rounds=7, warmup_rounds=1)
    assert len(history.terms) == 1
    seen = batches_per_epoch(SUBSET, recipe) * recipe.batch_size
    if not benchmark.disabled:
        benchmark.extra_info["images_per_s"] = seen / benchmark.stats.stats.median


@pytest.mark.benchmark(group="embedding")
def test_embedding(benchmark, tmp_path):
    embedder = make_embedder(RECIPE, 1).eval()
    fabric = Fabric(accelerator="cpu", devices=1)
    path = tmp_path / "embeddings.npy"
    rate = benchmark(lambda: embed(fabric, embedder, IMAGES, RECIPE.width, path))
    assert np.load(path).shape == (len(IMAGES), RECIPE.width)
    print(f"\nembedding: {rate:.0f} images/s")
