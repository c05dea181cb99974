"""Every stage but the backbone at the size of Google Landmarks v2, on a CPU: time and memory.

    python -m tests.scale.landmark [--share 1.0] [--only "NAME;…"] [--folder FOLDER] [--json FILE]

1,580,470 training images of 81,313 landmarks, 1,129 queries, a gallery of 761,757 vectors of 512
dimensions, all random. Each stage runs in a process of its own, whose largest resident memory is
what a container has to hold; files that are mapped are part of it. `--share` scales images and
gallery. Orders by class vectors and merges would take hours on a CPU: they are run for as many
classes and queries as are named in their stage, which changes their time, not their memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

TRAIN, CLASSES, QUERIES, GALLERY, WIDTH = 1_580_470, 81_313, 1_129, 761_757, 512
ANSWERS = 30  # of each query
ORDERED_CLASSES, MERGED_QUERIES, SHARES = 256, 8, 11


class Sizes:
    """What a share of the data set holds, and its random vectors on disk."""

    def __init__(self, folder, share):
        self.folder, self.train, self.gallery = folder, int(share * TRAIN), int(share * GALLERY)
        self.classes = max(2, int(share * CLASSES))

    def labels(self):
        generator = np.random.default_rng(0)
        some = generator.integers(0, self.classes, self.train - self.classes)
        return np.concatenate([np.arange(self.classes), some])

    def vectors(self, name, count, seed):
        path = self.folder / f"{name}.npy"
        if not path.exists():
            generator = np.random.default_rng(seed)
            array = np.lib.format.open_memmap(path, "w+", np.float32, (count, WIDTH))
            for start in range(0, count, 1 << 14):
                rows = array[start : start + (1 << 14)]
                rows[:] = generator.standard_normal(rows.shape, np.float32)
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return np.load(path, mmap_mode="r")

    def pairs(self):
        return self.vectors("old-train", self.train, 1), self.vectors("new-train", self.train, 2)

    def searched(self):
        return [
            self.vectors(f"{age}-{split}", count, seed)
            for seed, (age, split, count) in enumerate(
                (
                    ("new", "query", QUERIES),
                    ("new", "gallery", self.gallery),
                    ("old", "query", QUERIES),
                    ("old", "gallery", self.gallery),
                ),
                3,
            )
        ]

    def relevance(self, queries=QUERIES):
        from bench.relevance import Relevance

        generator = np.random.default_rng(9)
        answers = [generator.choice(self.gallery, ANSWERS, False) for _ in range(queries)]
        return Relevance.from_lists(answers, [[] for _ in answers], self.gallery)

    def data(self):
        from bench.protocol import ImageSet, RetrievalData

        def images(count, kind):
            return ImageSet(
                Blank(count), np.arange(count), tuple(f"{kind}-{i}" for i in range(count))
            )

        return RetrievalData(
            images(2, "train"),
            images(QUERIES, "query"),
            images(self.gallery, "item"),
            self.relevance(),
            "AP@100",
        )


class Blank:
    """Black pictures."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def read(self, rows):
        import torch

        return torch.zeros(len(rows), 3, 8, 8, dtype=torch.uint8)


def subset(sizes):
    from bench.data.splits import choose
    from bench.suites.schema import Side

    return choose(sizes.labels(), Side(), 0)


def context(sizes):
    import torch

    from bench.training.context import IndependentSystem, OldSystem, make_context

    old, new = sizes.pairs()
    chosen = subset(sizes)
    head = torch.zeros(sizes.classes, WIDTH)
    system = OldSystem(WIDTH, chosen.classes, head, old)
    other = IndependentSystem(head, new)
    device = torch.device("cpu")
    return make_context(sizes.labels(), chosen, WIDTH, 0.05, system, other, None, device)


def listing(sizes):
    """Identifiers, labels and the subset that a model is trained on."""
    ids = tuple(f"train/{row:08x}" for row in range(sizes.train))
    assert len(set(ids)) == len(ids)
    assert len(subset(sizes)) == sizes.train


def validation(sizes):
    """The split among held-out classes."""
    from bench.data.splits import held_out

    assert 0 < held_out(sizes.labels()).sum() < sizes.train


def contexts(sizes):
    """Old and independent embeddings of the training images in memory."""
    found = context(sizes)
    assert found.old_embeddings.shape == found.independent_embeddings.shape


def centres(sizes):
    """Mean old embedding of each class."""
    import torch

    from bench.training.context import class_centres

    found = class_centres(sizes.pairs()[0], subset(sizes), torch.device("cpu"))
    assert found.shape == (sizes.classes, WIDTH)


def prepared(sizes, name):
    from bench.plugins.registry import make_method
    from bench.training.learner import prepare_method

    return prepare_method(make_method(name), context(sizes), 0)


def fitted(name, **options):
    def fit(sizes):
        from bench.plugins.registry import make_method
        from bench.protocol import PairedEmbeddings
        from bench.training.learner import fit_method, prepare_method

        found = context(sizes)
        method = prepare_method(make_method(name, options), found, 0)
        pairs = PairedEmbeddings(
            found.old_embeddings, found.independent_embeddings, found.labels, found.old_head
        )
        fit_method(method, pairs, 0)

    fit.__doc__ = f"Fit `{name}` on all pairs" + (f", {options}." if options else ".")
    return fit


def training_buffers(name):
    def prepare(sizes):
        prepared(sizes, name)

    prepare.__doc__ = f"Buffers of `{name}` before training."
    return prepare


def orders(sizes):
    """Backfill orders: random, by distance to the gallery's mean, by 256 class vectors."""
    from bench.evaluation.orders import OrderInputs, order

    gallery = sizes.searched()[3]
    head = np.random.default_rng(5).standard_normal((ORDERED_CLASSES, WIDTH))
    inputs = OrderInputs(len(gallery), gallery, old_head=head, new_head=head)
    for name in ("random", "gallery-distance", "confidence-new-head"):
        assert len(order(name, inputs, np.random.default_rng(0))) == sizes.gallery


def merge(sizes):
    """Reciprocal-rank fusion of 8 queries at 3 shares, all items ranked at each."""
    from bench.evaluation.backfill import hot_refresh
    from bench.plugins.registry import method_class

    new, new_gallery, old, old_gallery = sizes.searched()
    some = slice(0, MERGED_QUERIES)
    hot_refresh(
        new[some],
        new_gallery,
        old[some],
        old_gallery,
        sizes.relevance(MERGED_QUERIES),
        np.arange(sizes.gallery),
        np.linspace(0, 1, 3),
        "AP@100",
        merge=method_class("reciprocal_rank_fusion").merge,
    )


def records(sizes):
    """Deploy an adapter, walk the curve (11 shares), choose flips, write records."""
    from bench.evaluation import flips
    from bench.evaluation.cell import evaluate, search_old
    from bench.evaluation.embedded import Embedded
    from bench.evaluation.orders import OrderInputs

    method = prepared(sizes, "low_rank_adapter").requires_grad_(False)
    method.matrix += 0.01
    new, new_gallery, old, old_gallery = sizes.searched()
    embedded, data = Embedded(old, old_gallery, new, new_gallery), sizes.data()
    inputs = OrderInputs(sizes.gallery, old_gallery)
    before = search_old(embedded, data)
    rows, found = evaluate(method, embedded, before, data, inputs, ("random",), SHARES, 0)
    rows.to_parquet(sizes.folder / "records.parquet")
    flips.write(sizes.folder / "flips.json", found)


STAGES = {
    "listing": listing,
    "split": validation,
    "contexts": contexts,
    "centres": centres,
    "prepare unibct": training_buffers("unibct"),
    "prepare advbct": training_buffers("advbct"),
    "fit procrustes": fitted("procrustes"),
    "fit low_rank_adapter": fitted("low_rank_adapter"),
    "fit mlp_adapter": fitted("mlp_adapter", epochs=1, batch_size=4096),
    "orders": orders,
    "merge": merge,
    "curve, flips, records": records,
}


def _alone(name, folder, share, channel):
    started = time.perf_counter()
    STAGES[name](Sizes(folder, share))
    used = resource.getrusage(resource.RUSAGE_SELF)
    channel.put(
        {
            "stage": name,
            "seconds": time.perf_counter() - started,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_gib": used.ru_maxrss / 2**20,
            "share": share,
        }
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    context, found = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as made:
        folder = chosen.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = Sizes(folder, chosen.share)
        sizes.pairs(), sizes.searched()
        for name in chosen.only.split(";") if chosen.only else STAGES:
            channel = context.SimpleQueue()
            process = context.Process(target=_alone, args=(name, folder, chosen.share, channel))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} ended with {process.exitcode}")
            row = channel.get()
            found.append(row)
            print(
                f"{row['stage']:24} {row['seconds']:8.1f} s {row['cpu_seconds']:8.1f} CPU s "
                f"{row['peak_gib']:6.2f} GiB",
                flush=True,
            )
            if chosen.json:
                chosen.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
