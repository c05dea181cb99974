import pytest

from bench.errors import BenchError
from bench.evaluation.records import REFERENCE_METHOD
from bench.pipeline import plan as plans
from bench.pipeline import specs as planning
from bench.pipeline.plan import make_plan
from bench.pipeline.specs import EmbeddingsSpec
from bench.suites import precision
from bench.suites.loading import compose, load_scenarios

CONTENT = {
    "name": "toy",
    "summary": "a toy",
    "dataset": "synthetic",
    "scenarios": list(load_scenarios()),
    "methods": ["independent", "l2", "bct", "ract"],
    "seeds": [0, 1],
}


def plan(*assignments, **chosen):
    return make_plan(compose(CONTENT, assignments, **chosen))


def by_cell(specs):
    return {str(spec.cell): spec for spec in specs}


def test_every_method_of_a_scenario_and_seed_meets_the_same_old_system():
    groups = {}
    for spec in plan():
        groups.setdefault((spec.cell.scenario, spec.cell.seed), []).append(spec)
    for specs in groups.values():
        # In a chain of upgrades that is the first one; the next is a method's own.
        deployed_first = [next(iter(spec.generations.values())) for spec in specs]
        assert len({model.key for model in deployed_first}) == 1
        assert len({EmbeddingsSpec(model, "gallery").key for model in deployed_first}) == 1
        trained = {spec.new.key for spec in specs}
        assert len(trained) == len(specs)


def test_old_systems_differ_between_seeds_and_where_scenarios_differ():
    specs = by_cell(plan())
    olds = {
        spec.old.key for name, spec in specs.items() if name.startswith(("extended", "enhanced"))
    }
    assert len(olds) == 3 * 2
    # wider-embedding differs from extended-class in the old model's width.
    assert specs["wider-embedding · l2 · seed 0"].old.recipe.width == 64
    assert (
        specs["open-class · l2 · seed 0"].old.key == specs["extended-class · l2 · seed 0"].old.key
    )


def test_a_model_that_ignores_the_old_system_serves_every_scenario_with_the_same_new_side():
    specs = by_cell(plan())
    keys = {
        scenario: specs[f"{scenario} · independent · seed 0"].new.key
        for scenario in ("extended-data", "extended-class", "enhanced-backbone", "open-class")
    }
    assert keys["extended-data"] == keys["extended-class"] == keys["enhanced-backbone"]
    assert keys["open-class"] != keys["extended-data"]


def test_settings_of_a_method_change_that_method_alone():
    before, after = by_cell(plan()), by_cell(plan("ract.weight=2"))
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {name for name in before if " · ract · " in name}


@pytest.mark.parametrize(
    ("assignment", "models", "records"),
    [
        ("epochs=3", True, True),
        ("synthetic.noise=0.1", True, True),
        ("split=validation", True, True),
        ("shares=5", False, True),
        ('orders=["by-answered-queries"]', False, True),
        ("summary=another", False, False),
    ],
)
def test_each_setting_reaches_the_keys_that_it_decides(assignment, models, records):
    before, after = plan(), plan(assignment)
    for one, two in zip(before, after, strict=True):
        assert (one.new.key != two.new.key) == models
        assert (one.key != two.key) == records


def test_another_version_of_torch_changes_every_key(monkeypatch):
    before = plan(methods=("ract",))[0]
    assert before.key
    monkeypatch.setattr(planning, "training_packages", lambda: "torch 1.0, timm 0.1")
    after = plan(methods=("ract",))[0]
    assert after.old.key != before.old.key
    assert after.key != before.key
    assert after.code["packages"] == "torch 1.0, timm 0.1"


@pytest.mark.parametrize("method", ["independent", "ract"])
def test_another_first_generation_changes_the_records_of_every_method(monkeypatch, method):
    only = {"scenarios": ("three-generations",), "methods": (method,), "seeds": (0,)}
    (before,) = plan(**only)
    changed = load_scenarios()
    chain = changed["three-generations"]
    smaller = chain.first.model_copy(update={"classes": 0.1})
    changed["three-generations"] = chain.model_copy(update={"first": smaller})
    monkeypatch.setattr(plans, "load_scenarios", lambda: changed)
    (after,) = plan(**only)
    assert after.key != before.key
    assert (after.new.key != before.new.key) == (method == "ract")


def test_foundations_are_what_others_wait_for():
    specs = by_cell(plan())
    ract = specs["extended-class · ract · seed 0"]
    assert ract.shared_models() == [ract.old]
    independent = specs["extended-class · independent · seed 0"]
    assert independent.shared_models() == [independent.old, independent.new]
    assert independent.old.method == REFERENCE_METHOD


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"scenarios": ("extended-clas",)}, "unknown scenario 'extended-clas'; did you mean"),
        ({"methods": ("rcat",)}, "unknown method 'rcat'; did you mean 'ract'"),
        ({"dataset": "synthetc"}, "unknown dataset 'synthetc'; did you mean 'synthetic'"),
        (
            {"orders": ("oracle-maP",)},
            "unknown backfill order 'oracle-maP'; did you mean 'oracle-mAP'",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(chosen, sentence):
    with pytest.raises(BenchError) as caught:
        plan(**chosen)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("native", [True, False])
def test_a_plan_says_in_which_precision_this_machine_computes(monkeypatch, native):
    monkeypatch.setattr(precision, "native_bfloat16", lambda: native)
    formats = ("bfloat16", "float32") if native else ("float32", "bfloat16")
    only = {"scenarios": ("extended-class",), "methods": ("independent",), "seeds": (0,)}
    automatic, native_one, other = (
        plan(f"precision='{name}'", **only)[0] for name in ("auto", *formats)
    )
    assert automatic.new.recipe.precision == automatic.old.recipe.precision == formats[0]
    assert automatic.new.key == native_one.new.key
    assert automatic.new.key != other.new.key
