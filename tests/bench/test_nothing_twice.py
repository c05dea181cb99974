"""Whatever methods, seeds and processes share is made once, counted at the places that make it."""

import subprocess
import sys
from collections import Counter

import pytest

from bench.data import images
from bench.evaluation import cell
from bench.pipeline import runner, stages
from bench.pipeline.plan import make_plan
from bench.protocol import Context
from bench.suites.loading import compose
from datasets.folder_classes import FolderClasses
from tests.command import ROOT, TINY, bench
from tests.datasets import layouts

METHODS, SEEDS = ("l2", "bct", "advbct"), (0, 1)  # the last two read the centres of old classes
RECIPE = {"epochs": 2, "image_size": 16, "width": 8, "batch_size": 8}
# An old system per seed, a model per cell; queries are not in the gallery.
MADE = {
    "models": len(SEEDS) + len(SEEDS) * len(METHODS),
    "embeddings": 3 * len(SEEDS) + 2 * len(SEEDS) * len(METHODS),
    "old_search": len(SEEDS),
    "centres": len(SEEDS),
    "records": len(SEEDS) * len(METHODS),
}


class Silent:
    def begin(self, runs, models):
        pass

    def progress(self, label, stage, done, total):
        pass

    def finish(self, outcome):
        assert outcome.status in ("done", "cached"), outcome.traceback


@pytest.fixture
def root(tmp_path):
    layouts.folder_classes(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def counted(monkeypatch):
    """Calls of everything that must not happen twice, by what it is done for."""
    counter = Counter()

    def count(owner, name, what):
        original = getattr(owner, name)

        def counting(*arguments, **options):
            counter[name, what(*arguments)] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counting)

    count(FolderClasses, "load", lambda adapter, size, cache: size)
    count(images, "decode", lambda path, *_: path)
    count(stages, "embed", lambda fabric, embedder, images, width, path, *_: path.parent.name)
    count(Context, "mean_of_classes", lambda context: context.old_embeddings.numpy().tobytes())
    count(cell, "search_old", lambda embedded, data: embedded.gallery_old.tobytes())
    count(
        stages, "make_learner", lambda recipe, seed, method, classes: (seed, method.config, classes)
    )
    return counter


def test_one_process_makes_everything_once(root, counted, tmp_path):
    content = {
        **{"name": "toy", "summary": "a toy", "dataset": f"folder_classes:{root}"},
        **{"scenarios": ["extended-class"], "methods": METHODS, "seeds": SEEDS, "shares": 3},
        **{"recipe": RECIPE, "options": {"folder_classes": {"packed": True}}},
    }
    plan = make_plan(compose(content))
    runner.run(plan, tmp_path / "results", Silent())
    assert {what: times for what, times in counted.items() if times > 1} == {}
    kinds = Counter(kind for kind, _ in counted)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert kinds == {
        "load": 1,
        "decode": len(files),
        "make_learner": MADE["models"],
        "embed": MADE["embeddings"],
        "search_old": MADE["old_search"],
        "mean_of_classes": MADE["centres"],
    }
    runner.run(plan, tmp_path / "results", Silent())
    assert kinds.total() == counted.total()


LOG = """
import os
from contextlib import contextmanager
from bench.data import decode
from bench.storage import store

def note(*parts):
    with open(os.environ["MADE_LOG"], "a") as log:
        log.write(" ".join(map(str, parts)) + "\\n")

making, decoded = store.Store.making, decode.decode

@contextmanager
def counting(self, stage, *arguments):
    with making(self, stage, *arguments) as work:
        if work is not None:
            note(stage, arguments[0])
        yield work

def decoding(path, *arguments):
    note("decode", path)
    return decoded(path, *arguments)

store.Store.making, decode.decode = counting, decoding
"""


@pytest.mark.slow
def test_two_processes_make_everything_once(root, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LOG)  # every Python process imports it
    log = tmp_path / "made.log"
    bench(
        *("all", "--dataset", f"folder_classes:{root}", "--scenarios", "extended-class"),
        *("--methods", ",".join(METHODS), "--seeds", ",".join(map(str, SEEDS))),
        *(part for key, value in RECIPE.items() for part in ("--set", f"{key}={value}")),
        *("--set", "folder_classes.packed=true", "--jobs", "2", "--results", tmp_path / "results"),
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        MADE_LOG=str(log),
    )
    made = Counter(log.read_text().splitlines())
    assert {line: times for line, times in made.items() if times > 1} == {}
    files = [path for path in root.rglob("*") if path.is_file()]
    stages = Counter(line.split()[0] for line in made)
    assert {stage: stages[stage] for stage in MADE} == MADE
    assert stages["decode"] == len(files)


def test_a_repeated_run_imports_nothing_that_makes_results(finished):
    results, _ = finished
    arguments = ["all", *TINY, "--methods", "independent,ract", "--results", str(results)]
    code = (
        f"import sys; from bench.cli.commands import main; sys.argv[1:] = {arguments}; main();"
        "heavy = {'pandas', 'scipy', 'mlflow', 'timm', 'faiss', 'torchvision', 'matplotlib'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "negative flips" in done.stdout
