"""Steps that try one part: the sweep, plug-ins, readers, served indexes, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
import torch
from loky import cpu_count
from numpy.typing import NDArray

from bench.authoring.contract import check_method
from bench.costs.decoding import pictures
from bench.costs.dry_run import DryRun
from bench.data.images import FileImages
from bench.evaluation.ranks import Generation, relevant_ranks
from bench.evaluation.scores import normalise
from bench.execution.resources import MEMORY_PER_GPU
from bench.pipeline.make import Maker
from bench.rehearsal.stand import Report, Stand
from bench.rehearsal.verdict import Finding, judged
from bench.relevance import Relevance
from bench.storage.store import Store
from bench.suites.loading import compose, load_suite
from bench.training.loading import read_ahead
from bench.upgrade.faiss_index import UpdatableIndex

GIB = 1 << 30
SHARES = 5
SIDE, READ_SIZE, PICTURES, BATCH = 320, 224, 256, 32  # pixels of files, of what is read from them
MOST_READERS = 64
INDEXES = {"Flat": "", "IVF16,Flat": "nprobe=16"}  # all cells are searched: both are exact
NEAREST, ALIKE = 10, 0.999  # equal scores of two items may come in another order


def check(stand: Stand, report: Report) -> Finding:
    """Hold every method to the contract of plug-ins, that of devices included."""
    broken = {}
    for name in stand.methods:
        report(f"checking {name}")
        if faults := check_method(name):
            broken[name] = faults[0]
    words = f"{len(stand.methods) - len(broken)} of {len(stand.methods)} methods keep the contract"
    words += "".join(f"; {name}: {fault}" for name, fault in broken.items())
    return judged(not broken, words, failed=broken)


def sweep(stand: Stand, report: Report) -> Finding:
    """Rank on the CPU and on the device: the same to the last rank."""
    queries, items, width = (48, 4000, 64) if stand.small else (1000, 200_000, 512)
    generator = np.random.default_rng(0)

    def vectors(count: int) -> NDArray[np.float32]:
        return generator.standard_normal((count, width), dtype=np.float32)

    old, new = ((vectors(queries), vectors(items)) for _ in range(2))
    for query, gallery in (old, new):
        gallery[: items // 8] = gallery[items // 8 : items // 8 * 2]  # ties
        gallery[::7] += query[np.arange(len(gallery[::7])) % queries]  # most answers come early
    rows = [generator.choice(items, 40, replace=False) for _ in range(queries)]
    relevance = Relevance.from_lists([row[:30] for row in rows], [row[30:] for row in rows], items)
    steps = generator.integers(0, SHARES + 1, items)
    generations = (
        Generation(*old, np.zeros_like(steps), steps),
        Generation(*new, steps, np.full_like(steps, SHARES)),
    )
    different = compared = 0
    for depth in (None, 100):
        report(f"ranking {items:,} items for {queries:,} queries, depth {depth or items:,}")
        here = relevant_ranks(generations, relevance, SHARES, depth, torch.device("cpu"))
        with stand.device() as device:
            there = relevant_ranks(generations, relevance, SHARES, depth, device)
        within = here <= depth if depth else np.ones_like(here, bool)  # beyond it, ranks are rough
        apart = (here != there) & (within | (there <= (depth or items)))
        different, compared = different + int(apart.sum()), compared + int(within.sum())
    words = f"{different:,} of {compared:,} ranks differ between the CPU and the device"
    return judged(different == 0 < compared, words, different=different, compared=compared)


def readers(stand: Stand, report: Report) -> Finding:
    """Decode images with 0, 4, 8, … readers until the model is what limits."""
    recipe = compose(load_suite("smoke")).recipe.model_copy(update={"image_size": READ_SIZE})
    recipe = recipe.model_copy(update={"backbone": "resnet18", "batch_size": BATCH})
    report("timing a training step with images in memory")
    wanted = BATCH / DryRun(classes=64, accelerator="auto").training_step(recipe)
    images = pictures(stand.folder / "pictures", PICTURES, SIDE, SIDE, READ_SIZE)
    rates: dict[int, float] = {}
    for count in [0, *range(4, min(MOST_READERS, max(4, cpu_count())) + 1, 4)]:
        report(f"decoding with {count} readers")
        rates[count] = _decoded_per_second(images, count)
        if rates[count] >= wanted:
            break
    fastest = max(rates, key=lambda count: rates[count])
    core = rates[0]  # of one thread of this process
    words = (
        f"a step takes {wanted:,.0f} images/s and {fastest} readers decode {rates[fastest]:,.0f}; "
        f"one core decodes {core:,.0f}: the model needs {wanted / core:.1f} of the {cpu_count()} "
        f"cores here"
    )
    return judged(rates[fastest] >= wanted, words, model=wanted, decoded=rates, cores=cpu_count())


def _decoded_per_second(images: FileImages, count: int) -> float:
    """Images per second that arrive, the start of the readers left out."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = np.arange(len(images) * max(1, count)) % len(images)
    batches = list(rows.reshape(-1, BATCH))
    arrivals = [time.perf_counter() for _ in read_ahead(images, batches, count)]
    torch.set_num_threads(former)
    warm = min(len(arrivals) - 2, 2 * count)
    return BATCH * (len(arrivals) - 1 - warm) / (arrivals[-1] - arrivals[warm])


def indexes(stand: Stand, report: Report) -> Finding:
    """Serve and update indexes on one device and on two; the answers are those of the CPU."""
    generator = np.random.default_rng(0)
    gallery = generator.standard_normal((2000, 32), dtype=np.float32)
    changed = generator.standard_normal((2000, 32), dtype=np.float32)
    query, rows = normalise(changed[:64]), np.arange(0, 1500)
    mixed = normalise(np.where(np.arange(2000)[:, None] < 1500, changed, gallery))
    best = np.argsort(-(query.astype(np.float64) @ mixed.T), axis=1)[:, :NEAREST]
    agreement: dict[str, float] = {}
    counts = (1, 2) if stand.pretended or stand.gpus > 1 else (1,)
    for count in counts:
        for factory, parameters in INDEXES.items():
            report(f"serving {factory} on {count} devices")
            with _served_on(count, stand.pretended):
                index = UpdatableIndex(factory, gallery, parameters)
                for part in np.array_split(rows, 3):
                    index.update(part, changed)
                found = index.search(query, NEAREST)
            agreement[f"{factory} on {count}"] = float(np.mean(found == best))
    worst = min(agreement, key=lambda name: agreement[name])
    which = "one device and two" if len(counts) == 2 else "one device; a second one is not here"
    words = f"{agreement[worst]:.1%} of the answers or more are right, on {which}"
    return judged(agreement[worst] >= ALIKE, words, right=agreement)


@contextmanager
def _served_on(count: int, pretended: bool) -> Iterator[None]:
    """Have indexes served on so many GPUs, or replicated as often on the CPU."""
    gpus: Any = faiss.index_cpu_to_all_gpus
    spread = partial(_replicas, count=count) if pretended else partial(gpus, ngpu=count)
    with (
        patch.object(faiss, "get_num_gpus", lambda: count),
        patch.object(faiss, "index_cpu_to_all_gpus", spread),
        patch.object(faiss, "index_gpu_to_cpu", faiss.index_gpu_to_cpu if not pretended else _same),
    ):
        yield


def _same(index: Any) -> Any:
    return index


def _replicas(index: Any, count: int) -> Any:
    """An index, or replicas of it where there are several devices, as FAISS makes them on GPUs."""
    if count == 1:
        return faiss.clone_index(index)
    every: Any = faiss.IndexReplicas()
    for _ in range(count):
        each: Any = faiss.clone_index(index)
        each.this.disown()
        every.addIndex(each)
    every.own_indices = True
    return every


def memory(stand: Stand, report: Report) -> Finding:
    """Train, embed and search in one process, and see what it took at its peak."""
    report("one run in one process")
    spec = stand.plan(("ract",))[0]
    store = Store(stand.folder / "memory")
    store.open()
    with stand.device():
        Maker(store).records(spec)
    host = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gpu = 0 if stand.pretended else torch.cuda.max_memory_allocated()
    words = f"{host / GIB:.2f} GiB of the machine's memory, of {MEMORY_PER_GPU / GIB:.0f} estimated"
    words += ", a GPU's is not known" if stand.pretended else f", {gpu / GIB:.2f} GiB of the GPU's"
    return judged(host <= MEMORY_PER_GPU, words, host_bytes=host, gpu_bytes=gpu or None)
