"""What decides a result is in its key: every file of code, and every setting."""

import ast
import dataclasses
import shutil

import pytest

from bench.pipeline import keys
from bench.pipeline.plan import make_plan
from bench.pipeline.specs import CentresSpec, EmbeddingsSpec, FittedSpec, OldSearchSpec
from bench.plugins import registry
from bench.suites.loading import compose
from bench.suites.schema import Recipe, Side, Suite

CONTENT = {
    **{"name": "toy", "summary": "a toy", "dataset": "synthetic"},
    **{"scenarios": ["extended-class"], "methods": ["bct", "procrustes"], "seeds": [0]},
}
# Code that decides no result, and why. Everything else of bench/ has to change a key.
UNKEYED = {
    "__init__.py": "holds the version number",
    "__main__.py": "starts the command line",
    "errors.py": "phrases errors",
    "output": "makes texts safe to print",
    "settings.py": "refuses wrong values; those that it lets through are in the keys",
    "analysis": "reads records",
    "authoring": "tries plug-ins and data sets",
    "cli": "parses options; what they say is in the keys",
    "costs": "estimates",
    "execution": "decides where and how many at once",
    "pipeline": "wires stages together; the tests of its joints see what arrives",
    "plugins": "finds plug-ins, whose own files are in the keys",
    "rehearsal": "tries a machine",
    "report": "draws what records say; its tables have a key of their own",
    "storage": "keeps and verifies files",
    "suites": "reads settings; their values are in the keys",
    "api": "runs what the command line runs, from Python",
    "tracking": "sends records to MLflow",
    "upgrade": "evaluates what was made elsewhere, and caches nothing",
}


def everything(*assignments, **chosen):
    """Keys of all that two runs are made of, by stage and method."""
    found = {}
    for spec in make_plan(compose(CONTENT, assignments, **chosen)):
        deployed = spec.new.deployed
        method = spec.cell.method
        found |= {
            (method, "old model"): spec.old.key,
            (method, "model"): deployed.key,
            (method, "embeddings"): EmbeddingsSpec(deployed, "gallery").key,
            (method, "centres"): CentresSpec(spec.new).key,
            (method, "fitted"): FittedSpec(spec.new).key,
            (method, "old search"): OldSearchSpec(spec.old).key,
            (method, "records"): spec.key,
        }
    return found


def changed(before, after):
    assert set(before) == set(after)
    return {stage for (_, stage), key in before.items() if key != after[_, stage]}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The code as a copy that may be changed; digests are taken of the copy."""
    for folder in ("bench", "methods", "datasets"):
        shutil.copytree(registry.ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    monkeypatch.setattr(keys, "BENCH", tmp_path / "bench")
    monkeypatch.setattr(registry, "_package_folder", lambda kind: tmp_path / kind)

    def keys_now():
        keys.stage_code.cache_clear()
        keys.plugin_code.cache_clear()
        return everything()

    yield tmp_path, keys_now
    keys.stage_code.cache_clear()
    keys.plugin_code.cache_clear()


def with_change(path, keys_now, text):
    original = path.read_text()
    path.write_text(text)
    try:
        return keys_now()
    finally:
        path.write_text(original)


def test_every_file_of_the_harness_is_keyed_or_listed_with_a_reason(copied):
    root, keys_now = copied
    before, wrong = keys_now(), []
    for path in sorted((root / "bench").rglob("*.py")):
        name = path.relative_to(root / "bench").parts[0]
        after = with_change(path, keys_now, path.read_text() + "\nCHANGED = True\n")
        if (before != after) == (name in UNKEYED):
            wrong.append(str(path.relative_to(root)))
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("bench/data/splits.py", "everything"),
        ("bench/data/images.py", "everything"),
        ("bench/training/embed.py", "everything"),
        ("bench/training/learner.py", "everything"),
        ("bench/protocol.py", "everything"),
        ("bench/seeds.py", "everything"),
        ("datasets/synthetic.py", "everything"),
        ("methods/_old_space.py", {"model", "embeddings", "fitted", "records"}),
        ("methods/bct.py", {"model", "embeddings", "fitted", "records"}),
        ("methods/procrustes.py", {"fitted", "records"}),
        ("methods/independent.py", "everything"),
        ("bench/evaluation/backfill.py", {"old search", "records"}),
        ("bench/evaluation/orders.py", {"old search", "records"}),
        ("bench/relevance.py", {"old search", "records"}),
        ("methods/l2.py", "nothing"),
        ("datasets/icons.py", "nothing"),
    ],
)
def test_changed_code_changes_the_keys_of_what_it_decides(copied, file, stages):
    root, keys_now = copied
    before, path = keys_now(), root / file
    after = with_change(path, keys_now, path.read_text() + "\nCHANGED = True\n")
    every = {stage for _, stage in before}
    assert changed(before, after) == {"everything": every, "nothing": set()}.get(
        str(stages), stages
    )


def test_the_files_beside_a_plug_in_that_it_imports_are_its_own():
    for name in registry.discover("methods"):
        sources = [path.name for path in registry.sources("methods", name)]
        tree = ast.parse((registry.ROOT / "methods" / f"{name}.py").read_text())
        imported = {
            node.module.partition(".")[2] + ".py"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods.")
        }
        assert imported | {f"{name}.py"} <= set(sources)


def test_wording_costs_nobody_a_training(copied):
    """Docstrings, comments and layout change no key, whatever file they are in."""
    root, keys_now = copied
    before = keys_now()
    for folder in ("bench", "methods", "datasets"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text()
            documented = [
                node
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node)
            ]
            lines = text.split("\n")
            for node in sorted(documented, key=lambda node: -node.body[0].lineno):
                first = node.body[0].lineno - 1
                lines[first] = lines[first].replace('"""', '"""Reworded. ', 1)
            path.write_text("# reworded\n" + "\n".join(lines) + "\n\n# reworded\n")
    assert keys_now() == before


# ---------------------------------------------------------------------------------- settings

OTHER_RECIPE = {
    **{"backbone": "test_efficientnet", "backbone_options": {"drop_rate": 0.1}},
    **{"pretrained": True, "pooling": "average", "width": 96, "image_size": 32, "crop_from": 64},
    **{"epochs": 3, "batch_size": 32, "optimizer": "adamw", "learning_rate": 0.05},
    **{"momentum": 0.8, "weight_decay": 0.01, "warmup_epochs": 2.0, "temperature": 0.1},
    **{"crop_area": (0.5, 1.0), "crop_ratio": 1.3, "flip": 0.25, "precision": "bfloat16"},
    **{"gem_power": 2.0, "gem_learns": False, "head": "inner-product", "decays": "everything"},
    **{"share_rounding": "down", "warmup_from": 0.01, "cosine_over": "whole"},
}
FILES = ("weights", "embeddings")
WITH_VECTORS = {"project"}  # tests/datasets/test_items.py changes it
OTHER_SUITE = {
    **{"name": "other", "dataset": "icons", "scenarios": ("extended-data",)},
    **{"methods": ("ract", "procrustes"), "seeds": (1,), "split": "validation", "shares": 5},
    **{"orders": ("oracle-mAP",), "recipe": {"epochs": 3}, "sides": {"new": {"epochs": 3}}},
    "options": {"bct": {"weight": 2.0}},
}
UNKEYED_SUITE = {"summary": "is shown to people"}
OTHER_SIDE = {"classes": 0.5, "images": 0.5, "disjoint": True, "recipe": {"epochs": 3}}


def test_every_setting_of_a_training_configuration_changes_the_models_key(tmp_path):
    assert set(OTHER_RECIPE) | set(FILES) | WITH_VECTORS == set(Recipe.model_fields)
    before = everything()
    for name, value in OTHER_RECIPE.items():
        assert value != getattr(Recipe(), name)
        after = everything(recipe={name: value})
        assert {"old model", "model", "records"} <= changed(before, after), name
    for name in FILES:
        keys_of = []
        for content in (b"one", b"two"):
            (tmp_path / name).write_bytes(content)
            keys_of.append(everything(recipe={name: tmp_path / name}))
        assert {"old model", "model"} <= changed(*keys_of), name
        assert {"old model", "model"} <= changed(before, keys_of[0]), name


def test_every_setting_of_a_suite_changes_a_key_or_is_listed():
    assert set(OTHER_SUITE) | set(UNKEYED_SUITE) == set(Suite.model_fields)
    before = set(everything().values())
    for name, value in OTHER_SUITE.items():
        other = compose({**CONTENT, name: value})
        assert not {spec.key for spec in make_plan(other)} <= before, name
    assert everything(summary="another") == everything()


def test_every_setting_of_a_side_changes_the_key_of_its_model(monkeypatch):
    from bench.pipeline import plan
    from bench.suites.loading import load_scenarios

    assert set(OTHER_SIDE) == set(Side.model_fields)
    before, scenarios = everything(), load_scenarios()
    scenario = scenarios["extended-class"]
    for age, stage in (("old", "old model"), ("new", "model")):
        for name, value in OTHER_SIDE.items():
            if (age, name) == ("old", "disjoint"):
                continue  # there is no side before the old one
            side = getattr(scenario, age).model_copy(update={name: value})
            altered = {**scenarios, "extended-class": scenario.model_copy(update={age: side})}
            monkeypatch.setattr(plan, "load_scenarios", lambda altered=altered: altered)
            assert stage in changed(before, everything()), (age, name)


def test_what_a_disjoint_side_leaves_out_is_in_its_key():
    model = make_plan(compose(CONTENT))[0].new.deployed
    sides = [None, Side(), Side(classes=0.5)]
    assert len({dataclasses.replace(model, without=side).key for side in sides}) == len(sides)


@pytest.mark.parametrize("kind", ["methods", "datasets"])
def test_every_setting_of_a_plug_in_is_in_a_key(kind):
    """The canonical settings of a plug-in hold every field of its configuration but its places."""
    from bench.plugins.registry import make_dataset, make_method

    for name in registry.discover(kind):
        if kind == "methods":
            config, left_out = make_method(name).config, set()
        else:
            try:
                adapter = make_dataset(name)
            except Exception:
                adapter = make_dataset(f"{name}:somewhere")
            config, left_out = adapter.config, set(adapter.unkeyed)
            assert left_out <= {"root", "packed", "source"}, name
        kept = set(config.model_dump(mode="json", exclude=left_out))
        assert kept == set(type(config).model_fields) - left_out, name
