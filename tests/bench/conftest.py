"""Made-up records of a suite: queries of varied difficulty, methods of varied compatibility."""

import numpy as np
import pandas as pd
import pytest

from bench.analysis.scenarios import summarise
from bench.evaluation import records
from bench.storage.metadata import RunMetadata
from tests.bench.made_up import metadata

PLACE = ["dataset", "scenario", "method", "seed"]
SHARES = np.linspace(0, 1, 11)
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
    groups = [f"group-{number // 3:03d}" for number in range(queries)]
    frames = [
        records.frame(ids, np.array([np.nan]), *_measured(old[None]), "old", groups=groups),
        records.frame(ids, shares, *_measured(logits), "refreshed", "random", groups),
    ]
    place = {"dataset": "icons", "scenario": scenario, "method": method, "seed": seed}
    rows = pd.concat(frames, ignore_index=True).assign(**place)
    note = metadata(
        **place,
        suite="made-up",
        key=f"{scenario}-{method}-{seed}",
        settings={"shares": len(shares)},
        rates={
            "train_images_per_s": 800.0 + seed + 10 * len(method),
            "read_images_per_s": 90_000.0,
            "augment_images_per_s": 20_000.0,
            "model_images_per_s": 830.0,
            "embed_images_per_s": 3000.0 + len(method),
            "search_queries_per_s": 40_000.0 + seed + len(method),
            "backfill_images_per_s": 2990.0 + len(method),
        },
        costs=make_costs(method, seed, shares),
    )
    return rows, note.content()


def make_costs(method, seed, shares):
    """Costs that tell methods, seeds and shares apart."""
    count = len(shares)
    return {
        **{"shares": shares.tolist(), "encoders": [["new"]] * count, "searches": [1] * count},
        **{"searched": ["all items"] * count, "purchases": [len(method)] * count},
        **{"encoder_ms": {"old": 0.5, "new": 2.0 + seed}, "search_ms": (seed + shares).tolist()},
        **{"bytes_per_item": 64, "items": 50},
        **{"fit_seconds": 2.0 + seed, "fit_pairs": 10 * len(method)},
    }


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


@pytest.fixture(scope="session")
def default_scenarios(default_suite):
    """What the records of the default suite say, for tests that change none of it."""
    return summarise(*default_suite)


def store_suite(results, rows, notes):
    """Write a suite's records where a run leaves them."""
    cells = dict(iter(rows.groupby(PLACE)))
    for note in notes.to_dict("records"):
        *folders, seed = place = tuple(note[name] for name in PLACE)
        path = results.joinpath("records", "made-up", *folders, f"seed-{seed}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(
            path, cells[place].drop(columns=PLACE), RunMetadata.model_validate(_plain(note))
        )


def _plain(note):
    """Metadata as it was, before pandas filled in what some rows lack."""
    return {
        name: value
        for name, value in note.items()
        if isinstance(value, dict | list) or value == value
    }


@pytest.fixture(scope="session")
def stored_suite(tmp_path_factory, default_suite):
    """A results folder that holds two of the default suite's scenarios."""
    results = tmp_path_factory.mktemp("results")
    wanted = ["extended-data", "extended-class"]
    store_suite(results, *(part[part["scenario"].isin(wanted)] for part in default_suite))
    return results
