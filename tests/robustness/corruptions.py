"""Damages the files of a results folder one at a time and counts how often damage was used.

    python -m tests.robustness.corruptions [--sample N]

Every file that a finished suite leaves is flipped, cut, emptied, removed, replaced by a link and
by another file of the same name; then the records are asked for again: with everything there, with
the records gone, and with all gone but the packed images. Damage is used when a run ends with other
records than the undisturbed one, or leaves a damaged file where it would be read.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.datasets import layouts
from tests.robustness.crashes import CONTENT, content, run_suite

DAMAGES = ("flip", "cut", "empty", "remove", "link", "foreign")
# What is taken away, so that the rest is read: nothing, records, all but the data set's own files.
STAGES = ("models", "embeddings", "old_search", "centres", "fitted", "checkpoints")
GONE = {"cells": (), "models": ("records",), "images": ("records", *STAGES)}


def damage(path: Path, how: str, others: list[Path], generator: random.Random) -> None:
    """Harm one file."""
    data = bytearray(path.read_bytes())
    if how == "flip" and data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "remove":
        path.unlink()
    elif how == "link":
        elsewhere = path.parents[3] / f"elsewhere-{path.name}"
        shutil.copy(path, elsewhere)
        path.unlink()
        path.symlink_to(elsewhere)
    elif how == "foreign":
        path.write_bytes(next((p.read_bytes() for p in others), b"foreign"))


def files(results: Path) -> list[Path]:
    """Every file whose content a run relies on."""
    every = [*(results / "cache").rglob("*"), *(results / "records").rglob("*.parquet")]
    return sorted(p for p in every if p.is_file() and p.suffix != ".lock" and p.name != "VERSION")


def suite(images: Path) -> dict[str, object]:
    """A small suite on packed image files."""
    layouts.folder_classes(images)
    packed = {"folder_classes": {"packed": True}}
    return {**CONTENT, "dataset": f"folder_classes:{images}", "options": packed}


def take_away(results: Path, ask: str) -> None:
    """Remove the finished stages that would save a run from reading others."""
    for stage in GONE[ask]:
        shutil.rmtree(results / "cache" / stage, ignore_errors=True)
    if GONE[ask]:
        shutil.rmtree(results / "records")


def main() -> int:
    """Try the corruptions and print the figures; 1 when damage was used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="try so many, chosen by chance")
    arguments = parser.parse_args()
    generator, faults, tried = random.Random(0), [], 0
    with tempfile.TemporaryDirectory() as folder:
        pristine, toy = Path(folder) / "pristine" / "results", suite(Path(folder) / "images")
        pristine.parent.mkdir()
        assert run_suite(pristine, toy) == 0
        expected = content(pristine)
        names = [path.relative_to(pristine) for path in files(pristine)]
        plan = [
            (name, how, ask)
            for name in names
            for how in DAMAGES
            for ask, gone in GONE.items()
            if not set(gone) & set(name.parts)
        ]
        if arguments.sample:
            plan = generator.sample(plan, arguments.sample)
        for name, how, ask in plan:
            results = Path(folder) / "damaged" / "results"
            shutil.copytree(pristine, results, symlinks=True)
            take_away(results, ask)
            others = [p for p in files(results) if p.name == name.name and p != results / name]
            damage(results / name, how, others, generator)
            code = run_suite(results, toy)
            found = content(results)
            # Weights that no cell had to read may lie there damaged: they are verified when read.
            same = [key for key in expected if key.startswith("records") or ask != "cells"]
            tried += 1
            wrong = [key for key in same if found.get(key) != expected[key]]
            if code or wrong:
                faults.append(f"{how} {name} ({ask}): ended with {code}, {wrong=}")
            shutil.rmtree(results.parent)
    print("\n".join(faults))
    print(f"{tried} corrupted files tried, {len(faults)} used")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
