"""Made-up records of a suite: queries of varied difficulty, methods of varied compatibility."""

import numpy as np
import pandas as pd
import pytest

from bench import records

PLACE = ["dataset", "scenario", "method", "seed"]
SHARES = np.linspace(0, 1, 11)
MACHINE = {
    **{"device": "cpu", "processor": "a processor", "devices": 1, "threads": 1},
    "precision": "float32",
}
# How well a method's new queries find old and new gallery items, on a logit scale.
METHODS = {
    "independent": (-3.5, 0.55),
    "l2": (-0.1, 0.0),
    "bct": (-0.2, 0.4),
    "ract": (0.1, 0.45),
}


def make_cell(scenario, method, seed, queries=120, strengths=METHODS, training=0.03, shares=SHARES):
    """Rows and metadata of one cell; `training` is how much one training differs from another."""
    common = np.random.default_rng([11, len(scenario)])
    difficulty = common.normal(0, 1.2, queries)
    of_seed = np.random.default_rng([12, len(scenario), seed])
    old = difficulty - 0.3 + of_seed.normal(0, 0.3, queries)
    own = np.random.default_rng([13, len(scenario), seed, *method.encode()])
    with_old, with_new = np.array(strengths[method]) + own.normal(0, training, 2)
    noise = own.normal(0, 0.3, queries)
    level = (1 - shares)[:, None] * with_old + shares[:, None] * with_new
    logits = difficulty + level + noise + 0.1 * own.normal(size=(len(shares), queries))
    ids = np.array([f"query-{number:04d}" for number in range(queries)])
    frames = [
        records.frame(ids, np.array([np.nan]), *_measured(old[None]), "old"),
        records.frame(ids, shares, *_measured(logits), "refreshed", "random"),
    ]
    place = {"dataset": "icons", "scenario": scenario, "method": method, "seed": seed}
    rows = pd.concat(frames, ignore_index=True).assign(**place)
    note = {
        **place,
        "schema_version": records.SCHEMA_VERSION,
        "suite": "made-up",
        "metric": "AP",
        "dataset_revision": "1",
        "key": f"{scenario}-{method}-{seed}",
        "settings": {"orders": ["random"], "shares": len(shares)},
        "measured_on": {"training": MACHINE, "embedding": MACHINE},
        "provenance": {"device": "cpu", "processor": "a processor", "threads": 1},
        "rates": {
            "train_images_per_s": 800.0 + seed,
            "read_images_per_s": 90_000.0,
            "augment_images_per_s": 20_000.0,
            "model_images_per_s": 830.0,
            "embed_images_per_s": 3000.0,
            "search_queries_per_s": 40_000.0,
            "backfill_images_per_s": 2990.0,
        },
    }
    return rows, note


def _measured(logits):
    ap = 1 / (1 + np.exp(-logits))
    return ap, np.stack([ap > 0.5, ap > 0.25], axis=1)


def make_suite(scenarios=("extended-class",), methods=METHODS, seeds=(0, 1, 2), **options):
    """Records and metadata of a suite, as `records.read_suite` returns them."""
    cells = [
        make_cell(scenario, method, seed, strengths=methods, **options)
        for scenario in scenarios
        for method in methods
        for seed in seeds
    ]
    rows, notes = zip(*cells, strict=True)
    return pd.concat(rows, ignore_index=True), pd.DataFrame(list(notes))


@pytest.fixture
def suite():
    """The factory of made-up suites."""
    return make_suite


@pytest.fixture(scope="session")
def default_suite():
    """Four methods, three scenarios, three seeds."""
    return make_suite(("extended-data", "extended-class", "enhanced-backbone"))


def store_suite(results, rows, notes):
    """Write a suite's records where a run leaves them."""
    cells = dict(iter(rows.groupby(PLACE)))
    for note in notes.to_dict("records"):
        *folders, seed = place = tuple(note[name] for name in PLACE)
        path = results.joinpath("records", "made-up", *folders, f"seed-{seed}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, cells[place].drop(columns=PLACE), note)


@pytest.fixture(scope="session")
def stored_suite(tmp_path_factory, default_suite):
    """A results folder that holds two of the default suite's scenarios."""
    results = tmp_path_factory.mktemp("results")
    wanted = ["extended-data", "extended-class"]
    store_suite(results, *(part[part["scenario"].isin(wanted)] for part in default_suite))
    return results
