"""Every command of the README and the docs, in order and in one folder: none spoils another's."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from bench.storage.results import record_paths, suites_with_records
from tests.command import ROOT

pytestmark = pytest.mark.slow
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What makes a run small, but for what the page sets itself.
SETTINGS = ("image_size=16", "width=16", "epochs=1", "synthetic.images_per_class=4")
FEW = {"--scenarios": "extended-class", "--methods": "independent,ract", "--seeds": "0"}
# Commands that need what a test does not have; they have tests of their own.
ELSEWHERE = ("compare", "ui", "new", "speed", "rehearse")
ELSEWHERE_OPTIONS = ("--address", "--engine", "--mirror", "--embeddings")


def commands(text):
    """The commands of a page's code blocks, each as its words, without the program's name."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language not in ("", "sh", "bash", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if part.strip().startswith("python -m bench "):
                    yield shlex.split(part, comments=True)[3:]


def stand_in(words):
    """The same command on a small scale, or None where it is tried elsewhere."""
    name, *rest = words
    if name in ELSEWHERE or set(rest) & set(ELSEWHERE_OPTIONS):
        return None
    if name in ("all", "run", "plan", "tune"):
        if "--suite" in rest:  # those that come with the harness need their images
            place = rest.index("--suite")
            rest[place : place + 2] = ["--suite", "smoke"]
        if "--dataset" in rest:
            place = rest.index("--dataset")
            del rest[place : place + 2]
        kept = [word for word in rest if word != "--skip-corrupt"]
        if name == "run":
            return ["run", kept[0], *small(kept), *kept[1:]]
        few = [
            word
            for option, values in FEW.items()
            if option not in kept and not (name == "tune" and option == "--methods")
            for word in (option, values)
        ]
        trials = ["--trials", "2"] if name == "tune" else []
        methods, others = kept[: name == "tune"], kept[name == "tune" :]
        return [name, *methods, *small(others), "--jobs", "1", *few, *others, *trials]
    if name == "data":
        return ["data", "synthetic"]
    if name == "check":
        return ["check", "l2"]
    return words


def small(words):
    own = {word.partition("=")[0] for word in words}
    kept = [setting for setting in SETTINGS if setting.partition("=")[0] not in own]
    return ["--dataset", "synthetic", *(word for each in kept for word in ("--set", each))]


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the pages speak of."""
    generator = np.random.default_rng(0)
    for letter, count in (("q", 8), ("g", 24)):
        ids = [f"{letter}{number}" for number in range(count)]
        whole = {"q": "queries", "g": "gallery"}[letter]
        for age in ("old", "new"):
            vectors = generator.normal(size=(count, 8)).astype("float32")
            for name in (f"{letter}{age[0]}", f"{whole}_{age}"):
                np.save(tmp_path / f"{name}.npy", vectors)
                (tmp_path / f"{name}.ids.txt").write_text("\n".join(ids) + "\n")
        table = {"q": "queries.csv", "g": "items.csv"}[letter]
        write_rows(tmp_path / table, "id,text", [f"{each},what {each} says" for each in ids])
    answers = [(f"q{number % 8}", f"g{number}") for number in range(24)]
    (tmp_path / "qrels.txt").write_text("\n".join(f"{q} 0 {g} 1" for q, g in answers) + "\n")
    write_rows(tmp_path / "relevance.csv", "query,item", [f"{q},{g}" for q, g in answers])
    write_rows(tmp_path / "groups.csv", "query,group", [f"q{n},m{n // 2}" for n in range(8)])
    return tmp_path


def write_rows(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")


def run(words, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_every_command_succeeds_shows_its_runs_and_spoils_none(folder):
    results, before, tried = folder / "results", {}, []
    for page in PAGES:
        for words in commands(page.read_text()):
            given = stand_in(words)
            if given is None or given in tried:
                continue
            if given[0] in ("report", "power"):  # the folder holds several suites by then
                assert words[1] == "--suite", f"{page.name}: {shlex.join(words)} names no suite"
                given = [given[0], "--suite", suites_with_records(results)[0], *given[3:]]
            done = run(given, folder)
            told = f"{page.name}: {shlex.join(words)}, as {shlex.join(given)}\n{done.stderr}"
            assert done.returncode in ((0, 3) if given[0] in ("evaluate", "compare") else (0,)), (
                told
            )
            assert "Traceback" not in done.stderr + done.stdout, told
            for path, content in before.items():
                assert path.read_bytes() == content, f"{told} changed {path}"
            if given[0] != "tune":  # its trials are kept as tables, not as records
                before |= {path: path.read_bytes() for path in record_paths(results)}
            tried.append(given)
            if given[0] == "all" and "--methods" in given:
                methods = set(given[given.index("--methods") + 1].split(","))
                shown = set(re.findall(r"^  (\w+) +\d+\.\d", done.stdout, re.MULTILINE))
                assert shown == methods, done.stdout
    assert len([words for words in tried if words[0] == "all"]) >= 2
    for suite in suites_with_records(results):
        done = run(["report", "--suite", suite], folder)
        assert done.returncode == 0, done.stderr
