import copy

import pytest

from bench.analysis.consistency import MixedRecordsError, refuse_mixture
from bench.storage.metadata import RunMetadata
from tests.bench.made_up import NOTE, SETTINGS

RECIPE = {"epochs": 5, "width": 16}


def note(method="l2", seed=0, scenario="extended-class", dataset="icons"):
    return {
        **NOTE,
        "dataset": dataset,
        "scenario": scenario,
        "method": method,
        "seed": seed,
        "metric": "AP",
        "dataset_revision": "r",
        "dataset_key": "k",
        "code": {
            "data": "d",
            "training": "t",
            "records": "r",
            "method": method,
            "packages": "torch 2, timm 1",
        },
        "settings": {
            **SETTINGS,
            "shares": 11,
            "orders": ["random"],
            "split": "test",
            "method": {"weight": 1.0},
            **{
                f"{age}_{part}": dict(RECIPE)
                for age in ("first", "old", "new")
                for part in ("side", "recipe")
            },
        },
    }


def typed(*notes):
    return [RunMetadata.model_validate(note) for note in notes]


def test_what_a_method_or_a_scenario_may_choose_does_not_matter():
    wider = note("other")
    wider["settings"]["new_recipe"]["width"] = 32
    wider["settings"]["method"] = {"margin": 2}
    harder = note(scenario="open-class")
    harder["settings"]["old_side"]["classes"] = 0.5
    elsewhere = {**note(dataset="cub"), "dataset_revision": "c", "metric": "AP@k"}
    refuse_mixture(typed(note(), note(seed=1), wider, harder, elsewhere), "suite 's'")


CHANGES = {
    "code of the stage 'data'": ("code", "data"),
    "code of the stage 'training'": ("code", "training"),
    "code of the stage 'records'": ("code", "records"),
    "code of the method": ("code", "method"),
    "version of torch or timm": ("code", "packages"),
    "dataset revision": ("dataset_revision",),
    "setting of the dataset": ("dataset_key",),
    "metric": ("metric",),
    "setting 'orders'": ("settings", "orders"),
    "setting 'split'": ("settings", "split"),
    "first side": ("settings", "first_side", "classes"),
    "old side": ("settings", "old_side", "classes"),
    "new recipe": ("settings", "new_recipe", "epochs"),
    "width of the new model": ("settings", "new_recipe", "width"),
    "hyper-parameters": ("settings", "method", "weight"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_cell_made_otherwise_is_named_with_what_differs(what):
    notes = [note(), note("ract"), note(seed=1)]
    changed, path = copy.deepcopy(notes[2]), CHANGES[what]
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = ["another"] if path[-1] == "orders" else "another"
    sentence = f"{what} differs between .*extended-class · l2 · seed 1 \\(1\\)"
    with pytest.raises(MixedRecordsError, match=sentence):
        refuse_mixture(typed(*notes[:2], changed), "suite 's'")
