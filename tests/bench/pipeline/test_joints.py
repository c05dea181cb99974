"""From pipeline to training and back: what arrives is what was sent."""

import shutil

import pytest
import torch

from bench.evaluation import cell, records
from bench.evaluation.backfill import search
from bench.pipeline import stages as stage_functions
from bench.pipeline.finished import Finished
from bench.pipeline.make import Maker
from bench.pipeline.plan import make_plan
from bench.pipeline.specs import EmbeddingsSpec, ModelSpec, closure
from bench.seeds import derive_seed
from bench.storage.store import Store
from bench.suites.loading import compose
from bench.training.batches import batches
from bench.training.models import make_head
from tests.bench.pipeline.test_stages import CONTENT
from tests.bench.stages import Stages

METHODS = ("independent", "bct", "lwf", "ract", "procrustes", "fct", "cores")
SCENARIOS = (
    "extended-class",
    "wider-embedding",
    pytest.param("open-class", marks=pytest.mark.slow),
    pytest.param("three-generations", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    stages = Stages(Store(tmp_path_factory.mktemp("results")), accelerator="cpu")
    plan = make_plan(compose(CONTENT, ["fct.epochs=1"], methods=METHODS, seeds=(0, 1)))
    for spec in plan:
        stages.records(spec)
    return stages, plan


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_stage_reads_nothing_that_it_does_not_need(scenario, tmp_path):
    """Every stage works where there is nothing but what its spec declares."""
    whole = Maker(Store(tmp_path / "whole"), accelerator="cpu")
    methods = [m for m in METHODS if scenario != "wider-embedding" or m != "cores"]
    options = ["fct.epochs=1"]
    plan = make_plan(compose(CONTENT, options, methods=methods, scenarios=(scenario,)))
    for spec in plan:
        whole.make(spec)
    for number, spec in enumerate(closure(plan)):
        spec = whole.finished.distinct(spec)
        store = Store(tmp_path / str(number))
        for need in map(whole.finished.distinct, spec.needs()):
            target = store.path(need.stage, need.key)
            shutil.copytree(whole.finished.folder(need), target, dirs_exist_ok=True)
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        maker = Maker(store, accelerator="cpu")
        stage_functions.stage_of(spec)(
            spec, Finished(store, maker.finished.device), maker.means, folder
        )
        assert {path.name for path in folder.iterdir()} | {"manifest.json"} == {
            path.name for path in whole.finished.folder(spec).iterdir()
        }


def test_every_row_and_class_of_a_part_of_the_images_is_its_own(tmp_path):
    """A new side that is a real subset, whose rows and classes are not their own places."""
    plan = make_plan(compose(CONTENT, methods=("unibct", "procrustes"), scenarios=("open-class",)))
    stages = Stages(Store(tmp_path), accelerator="cpu")
    for spec in plan:
        context, subset = stages.context(spec.new), stages.subset(spec.new)
        stages.embeddings(spec.new, "train")
        labels = stages.data(spec.new).train.labels
        assert subset.rows.tolist() != list(range(len(subset)))
        assert subset.classes.tolist() != list(range(len(subset.classes)))
        numbers = {label: number for number, label in enumerate(sorted(set(labels.tolist())))}
        assert context.dataset_classes == len(numbers)
        assert context.class_ids.tolist() == [numbers[label] for label in subset.classes.tolist()]
        named = subset.classes[context.labels.numpy()]
        assert named.tolist() == labels[subset.rows].tolist()
        old, new = (
            torch.from_numpy(stages.finished.embeddings(model, "train")[subset.rows])
            for model in (spec.old, spec.new)
        )
        assert torch.equal(context.old_embeddings, old)
        if spec.new.independent is not None:
            own = stages.finished.embeddings(spec.new.independent, "train")[subset.rows]
            assert torch.equal(context.independent_embeddings, torch.from_numpy(own))
        if spec.new.fits:
            pairs = stages.finished.pairs(spec.new, context)
            assert torch.equal(pairs.old, old)
            assert torch.equal(pairs.new, new)
            assert torch.equal(pairs.labels, context.labels)
            assert torch.equal(pairs.new_head, stages.finished.head(spec.new))
    assert any(spec.new.fits for spec in plan)
    assert any(spec.new.independent is not None for spec in plan)


def test_the_old_classifier_that_a_method_gets_is_the_trained_one(made):
    stages, plan = made
    for spec in plan:
        if spec.new.old is not None:
            context = stages.context(spec.new)
            assert torch.equal(context.old_head, stages.weights(spec.old)["head"])
            seed = derive_seed("head", spec.old.seed)
            untrained = make_head(*context.old_head.shape, seed).detach()
            assert not torch.allclose(context.old_head, untrained, atol=1e-3), spec


def test_every_method_starts_from_the_same_weights_and_meets_the_same_batches(
    monkeypatch, tmp_path
):
    """Spied on where the loop takes them: batches, augmented pixels, first weights."""
    seen = {}
    original = stage_functions.train

    def spy(fabric, learner, images, subset, context, old_model, recipe, seed, *rest):
        place = seen.setdefault((learner.method.__class__.__name__, seed), {})
        place["weights"] = {
            name: value.clone()
            for name, value in learner.state_dict().items()
            if not name.startswith("method.")
        }
        taken = list(batches(images, subset, recipe, seed, 0))
        place["pixels"] = torch.stack([pixels for pixels, _, _ in taken])
        place["rows"] = torch.stack([rows for _, rows, _ in taken])
        return original(fabric, learner, images, subset, context, old_model, recipe, seed, *rest)

    monkeypatch.setattr(stage_functions, "train", spy)
    maker = Maker(Store(tmp_path), accelerator="cpu")
    for spec in make_plan(compose(CONTENT, methods=("l2", "bct", "ract"), seeds=(0, 1))):
        maker.make(spec.new)
    for seed in (0, 1):
        first, *others = (seen[name, seed] for name in ("L2", "BCT", "RACT"))
        for other in others:
            assert torch.equal(first["pixels"], other["pixels"])
            assert torch.equal(first["rows"], other["rows"])
            for name, value in first["weights"].items():
                assert torch.equal(value, other["weights"][name]), name
    assert not torch.equal(seen["L2", 0]["pixels"], seen["L2", 1]["pixels"])
    one, two = (seen["L2", seed]["weights"] for seed in (0, 1))
    drawn = [name for name, value in one.items() if value.ndim > 1]  # not the ones and zeros
    assert {"head"} < set(drawn)
    assert not [name for name in drawn if torch.equal(one[name], two[name])]


def test_records_are_of_the_models_of_their_run(made):
    """AP at 100 % of each run equals a search with that run's own embeddings."""
    stages, plan = made
    seen = set()
    for spec in plan:
        rows, note = records.read(stages.records(spec))
        assert (note.method, note.seed, note.key) == (spec.cell.method, spec.cell.seed, spec.key)
        assert note.settings.new_side == spec.new.side.model_dump(mode="json")
        assert note.settings.old_side == spec.old.side.model_dump(mode="json")
        method = stages.method(spec.new)
        deployed = cell.deploy(method, stages.finished.embedded(spec.old, spec.new))
        data = stages.data(spec.new)
        final = rows[(rows["system"] == "refreshed") & (rows["share"] == 1.0)]
        if method.merge is None:
            found = search(deployed.query_new, deployed.gallery_new, data.relevance, data.metric)
            assert final["AP"].to_numpy() == pytest.approx(found.ap[0][found.evaluated])
        seen.add(final["AP"].mean())
    assert len(seen) > len(METHODS)  # seeds and methods can be told apart


def test_metadata_remembers_the_code_that_made_a_model(made):
    stages, plan = made
    spec = next(spec for spec in plan if spec.cell.method == "bct")
    assert stages.finished.model_metadata(spec.new).code == spec.new.code
    wanted = EmbeddingsSpec(spec.new, "gallery")
    assert stages.finished.embeddings_metadata(wanted).code == spec.new.code
    assert isinstance(spec.new, ModelSpec)
