"""The memory that a training takes, reckoned before it and seen after it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bench.execution.resources import MEMORY_PER_WORKER
from bench.pipeline.memory import of_cells, of_training
from bench.pipeline.plan import make_plan
from bench.suites.loading import compose
from bench.suites.schema import Recipe
from tests.bench.pipeline.test_stages import CONTENT

SMALL = Recipe(image_size=32, width=16, batch_size=8, precision="float32")

# A step of the real loop in a process of its own; prints what it added to the peak, in bytes.
STEP = """
import json, resource, sys
import torch
from lightning_fabric import Fabric
from bench.training.models import make_embedder
from bench.plugins.registry import make_method
from bench.suites.schema import Recipe
from bench.training.loop import train
from tests.bench.toys import images, make_task, whole, with_old_context

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
recipe = Recipe.model_validate(json.loads(sys.argv[1]))
train_set = images(classes=8, each=recipe.batch_size // 4, size=recipe.image_size)
old = make_embedder(recipe, 9).eval().requires_grad_(False)
context = with_old_context(whole(train_set), old, train_set, recipe)
task, before = make_task(make_method("ract"), context, recipe), peak()
fabric = Fabric(accelerator="cpu", devices=1)
train(fabric, task, train_set, whole(train_set), context, old, recipe, 0, lambda *_: None)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size", "batch"), [("resnet18", 160, 48), ("mobilenetv3_small_100", 160, 96)]
)
def test_a_training_stays_within_what_was_reckoned(backbone, size, batch):
    chosen = {"backbone": backbone, "image_size": size, "batch_size": batch, "epochs": 2}
    recipe = SMALL.model_copy(update=chosen)
    text = json.dumps(recipe.model_dump(mode="json"))
    done = subprocess.run([sys.executable, "-c", STEP, text], capture_output=True, check=True)
    seen, reckoned = int(done.stdout), of_training(recipe) - MEMORY_PER_WORKER
    assert seen <= reckoned <= 3 * seen


def test_memory_grows_with_the_batch_and_is_shared_among_devices():
    def step(batch, devices=1):
        recipe = SMALL.model_copy(update={"batch_size": batch})
        return of_training(recipe, devices) - MEMORY_PER_WORKER

    assert step(96) - step(64) == pytest.approx(step(64) - step(32), abs=2)
    assert step(64, devices=2) == step(32)
    assert step(32) > 0


def test_the_largest_model_of_some_cells_decides():
    wide = {"image_size": 64}
    plan = make_plan(compose(CONTENT))
    larger = make_plan(compose({**CONTENT, "recipe": {**CONTENT["recipe"], **wide}}))
    assert of_cells(plan, 1) < of_cells(larger, 1) == of_cells([*plan, *larger], 1)


def test_vectors_in_place_of_pixels_take_next_to_nothing(tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, embeddings=np.ones((4, 8), np.float32), ids=np.array(list("abcd")))
    recipe = SMALL.model_copy(update={"embeddings": path})
    assert 0 < of_training(recipe) - MEMORY_PER_WORKER < 1 << 20


def test_a_model_that_cannot_be_made_is_left_to_its_training():
    recipe = SMALL.model_copy(update={"backbone": "no_such_model"})
    assert of_training(recipe) == MEMORY_PER_WORKER
