"""Under which circumstances a scenario's numbers were made: machines, speeds, what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.quantities import ARCHITECTURE_RATES, TRAINING_RATE
from bench.evaluation.records import REFERENCE_METHOD

# What a training step waits for, and the rate at which each would go alone.
LIMITS = {
    "reading": "read_images_per_s",
    "augmentation": "augment_images_per_s",
    "forward and backward pass": "model_images_per_s",
}


@dataclass(frozen=True)
class Architecture:
    """Rates of one architecture: medians over all cells that have it, whatever their method."""

    name: str
    rates: dict[str, float]
    cells: int


def training_rates(metadata: pd.DataFrame) -> dict[str, float]:
    """Mean over seeds of each method's training images/s, NaN where it was not measured."""
    return {
        str(method): float(
            np.mean([each.get(TRAINING_RATE.key, np.nan) for each in found["rates"]])
        )
        for method, found in metadata.groupby("method")
    }


def architectures(metadata: pd.DataFrame) -> list[Architecture]:
    """Embedding, search and backfill rates once per architecture of the new models."""
    measured: dict[str, list[dict[str, float]]] = {}
    for settings, rates in zip(metadata["settings"], metadata["rates"], strict=True):
        measured.setdefault(_architecture(settings.get("new_recipe") or {}), []).append(rates)
    found = []
    for name, cells in measured.items():
        known = {
            rate.key: [cell[rate.key] for cell in cells if rate.key in cell]
            for rate in ARCHITECTURE_RATES
        }
        medians = {key: float(np.median(each)) for key, each in known.items() if each}
        if medians:
            found.append(Architecture(name, medians, len(cells)))
    return found


def _architecture(recipe: dict[str, Any]) -> str:
    parts = [str(recipe.get("backbone") or "one architecture")]
    parts += [f"{recipe['image_size']} px"] if recipe.get("image_size") else []
    parts += [f"{recipe['width']} dimensions"] if recipe.get("width") else []
    return ", ".join(parts)


def training_limits(metadata: pd.DataFrame) -> dict[str, float]:
    """Median images per second of each part of a training step alone, the slowest first."""
    rates = {
        part: [cell[key] for cell in metadata["rates"] if key in cell]
        for part, key in LIMITS.items()
    }
    found = {part: float(np.median(values)) for part, values in rates.items() if values}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def devices(metadata: pd.DataFrame) -> tuple[str, ...]:
    """Describe the machines that the throughput was measured on."""
    found: dict[str, set[str]] = {}
    for stages in metadata["measured_on"]:
        for stage, each in stages.items():
            several = f"{each['devices']} × " if each["devices"] > 1 else ""
            place = f"{several}{each['device']} ({each['processor']}), {each['threads']} thread(s)"
            found.setdefault(f"{place}, {each['precision']}", set()).add(stage)
    return tuple(f"{place} ({', '.join(sorted(found[place]))})" for place in sorted(found))


def notes(
    metadata: pd.DataFrame, seeds: dict[str, tuple[int, ...]], without_ratio: tuple[str, ...]
) -> tuple[str, ...]:
    """State what a reader has to know of these records, methods in the order of `seeds`."""
    found = []
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{m}: {', '.join(map(str, each))}" for m, each in seeds.items())
        found.append(f"Seeds differ ({listed}); methods are compared on the seeds they share.")
    if REFERENCE_METHOD not in seeds:
        found.append(
            f"Tax, update gain and P_1 need the method '{REFERENCE_METHOD}', which was not run."
        )
    if without_ratio:
        found.append(
            "Update gain and P_1 are not shown where their divisor M(*,*) − M(o,o) cannot be told "
            f"from 0: {', '.join(without_ratio)}."
        )
    if (metadata["schema_version"] < 2).any():
        found.append(
            "These records name no groups of queries: tests and intervals take queries as "
            "independent, which they are not where queries share answers."
        )
    if any("first_side" in settings for settings in metadata["settings"]):
        found.append(
            "The last upgrade of a chain: each method replaces an old model of its own, and "
            "its flips are counted from what that one answers."
        )
    return tuple(found)
