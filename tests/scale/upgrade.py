"""`bench evaluate` at a size where nothing may be held in memory twice: time and memory.

    python -m tests.scale.upgrade [--items 2000000] [--queries 1000] [--folder FOLDER]
        [--json FILE] [-- options of evaluate]

Random clusters of 20 items in 768 dimensions, float32, seen by an old and a better new model. Files
are written once and mapped. Two numbers of memory are told: the largest resident memory, of which
mapped files are a part that the system takes back whenever it needs it, and the largest anonymous
memory, which nothing but the process can give back.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WIDTH, LATENT, CLUSTER, BLOCK = 768, 64, 20, 1 << 14
NOISE = {"old": 0.9, "new": 0.6}


def write(folder: Path, items: int, queries: int) -> None:
    """Write embeddings of both models, block by block, and which items answer which query."""
    if (folder / "truth.csv").exists():
        return
    centres = np.random.default_rng(0).standard_normal((items // CLUSTER, LATENT), np.float32)
    asked = np.random.default_rng(1).permutation(len(centres))[:queries]
    for side, noise in NOISE.items():
        seen = np.random.default_rng(len(side) + ord(side[0]))
        directions = seen.standard_normal((LATENT, WIDTH), np.float32)
        for name, cluster in (("queries", asked), ("gallery", np.arange(items) % len(centres))):
            path = folder / f"{name}-{side}.npy"
            table = np.lib.format.open_memmap(path, "w+", np.float32, (len(cluster), WIDTH))
            for start in range(0, len(cluster), BLOCK):
                points = centres[cluster[start : start + BLOCK]]
                points = points + noise * seen.standard_normal(points.shape, np.float32)
                table[start : start + BLOCK] = points @ directions
            table.flush()
    with (folder / "truth.csv").open("w") as file:
        file.write("query,item\n")
        for query, cluster in enumerate(asked.tolist()):
            file.writelines(f"{query},{item}\n" for item in range(cluster, items, len(centres)))


class Memory(threading.Thread):
    """The largest anonymous memory of this process, looked at every half second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.anonymous = max(self.anonymous, int(line.split()[1]) * 1024)
            time.sleep(0.5)


def main() -> None:
    """Write the files and evaluate them as a user would."""
    from bench.cli.commands import app

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, options.items, options.queries)
        memory = Memory()
        memory.start()
        started, marks = time.monotonic(), os.times()
        files = [
            part
            for name in ("queries", "gallery")
            for side in NOISE
            for part in (f"--{name}-{side}", str(folder / f"{name}-{side}.npy"))
        ]
        rest = [part for part in more if part != "--"]
        code = app(
            ["evaluate", *files, "--relevance", str(folder / "truth.csv"), *rest],
            standalone_mode=False,
        )
        spent = os.times()
        told = {
            "items": options.items,
            "queries": options.queries,
            "exit": code,
            "seconds": time.monotonic() - started,
            "cpu_seconds": spent.user + spent.system - marks.user - marks.system,
            "anonymous_GiB": memory.anonymous / 2**30,
            "resident_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        print(json.dumps(told, indent=1))
        if options.json:
            options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    sys.exit(main())
