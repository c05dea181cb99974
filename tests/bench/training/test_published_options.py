"""What a recipe can say to follow a paper's code: held against the libraries that the code uses."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn import functional
from torchvision.transforms import functional as vision
from torchvision.transforms import transforms

from bench.data.images import ArrayImages, FileImages, PackedWhenRead
from bench.data.splits import SomeImages, choose
from bench.errors import BenchError
from bench.pipeline.plan import make_plan
from bench.protocol import ImageSet, Method, UnavailableEmbeddingError
from bench.suites.loading import compose
from bench.suites.schema import Recipe, Side
from bench.training.batches import Feed, OriginalCrops, batches, draw_window
from bench.training.learner import make_learner
from bench.training.loop import _optimizer, _schedule
from bench.training.models import make_embedder, make_head
from tests.bench.pipeline.test_stages import CONTENT
from tests.bench.toys import RECIPE, images, make_task, no_old_context, whole, with_old_context

PUBLISHED = RECIPE.model_copy(
    update={
        **{"gem_learns": False, "head": "inner-product", "crop_from": "original"},
        **{"crop_area": (0.08, 1.0), "crop_ratio": 4 / 3, "share_rounding": "down"},
        **{"optimizer": "momentum", "decays": "everything", "weight_decay": 1e-4},
        **{"warmup_from": 1e-3, "cosine_over": "whole", "epochs": 6, "learning_rate": 0.1},
    }
)


PLAIN = RECIPE.model_copy(update={"epochs": 3, "learning_rate": 0.1})


def learner(recipe):
    image_set = images()
    return make_task(Method(), no_old_context(whole(image_set), recipe), recipe)


# -------------------------------------------------------------------------------- optimisation


def test_the_schedule_is_timm_s():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    steps, whole_run = 7, 7 * PUBLISHED.epochs
    ours = _schedule(optimizer, PUBLISHED, steps)
    theirs = CosineLRScheduler(
        other,
        **{"t_initial": whole_run, "lr_min": 1e-3, "warmup_lr_init": 1e-4, "warmup_t": steps},
        **{"cycle_limit": 1, "t_in_epochs": False},
    )
    rates = []
    for step in range(whole_run):
        rates.append((optimizer.param_groups[0]["lr"], other.param_groups[0]["lr"]))
        optimizer.step()
        ours.step()
        theirs.step_update(step + 1)
    found, wanted = np.array(rates).T
    assert found == pytest.approx(wanted, rel=1e-9)
    assert found[0] == pytest.approx(1e-4)
    # As if never warmed: the step after the warm-up is already below the peak.
    assert found[steps] == pytest.approx(1e-3 + 0.099 * 0.5 * (1 + math.cos(math.pi / 6)))


def test_without_a_word_the_schedule_is_what_it_was():
    """One step's worth at first, the peak after the warm-up, 1 % at the end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, rates = _schedule(optimizer, PLAIN, 200), []
    for _ in range(600):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1 / 200)
    assert rates[200] == pytest.approx(0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_momentum_is_plain_and_everything_decays():
    task = learner(PUBLISHED)
    (group,) = _optimizer(task, PUBLISHED).param_groups
    assert (group["nesterov"], group["momentum"], group["weight_decay"]) == (False, 0.9, 1e-4)
    learning = {id(each) for each in task.parameters() if each.requires_grad}
    assert {id(each) for each in group["params"]} == learning
    assert id(task.embedder.project.bias) in learning
    assert id(task.embedder.pool.power) not in learning
    assert {each["weight_decay"] for each in _optimizer(task, RECIPE).param_groups} == {0, 1e-4}
    assert create_optimizer_v2(task, "sgd", lr=1.0).param_groups[0]["nesterov"]  # hence the name


def test_p_of_gem_is_what_the_recipe_says():
    pool = make_embedder(RECIPE.model_copy(update={"gem_power": 2.0}), 0).pool
    features = torch.rand(2, 3, 4, 4)
    found = pool(features)
    torch.testing.assert_close(found, features.square().mean((2, 3)).sqrt())
    assert pool.power.requires_grad


# ---------------------------------------------------------------------------------- classifier


def seen_by(recipe, old_model=None):
    """The step that a method is given."""
    image_set = images()
    subset, kept = whole(image_set), []

    class Spy(Method):
        def loss(self, step):
            kept.append(step)
            return {}

    old = old_model or make_embedder(recipe, 9).eval()
    context = with_old_context(subset, old, image_set, recipe)
    task = make_learner(recipe, 0, Spy(), context.class_count)
    batch = image_set.images.read(range(12)).float() / 255
    terms = task(batch, torch.arange(12), context.labels[:12], context, old, 0.0, 0)
    return kept[0], task, old, batch, terms


def test_an_inner_product_head_sees_embeddings_at_their_lengths():
    step, task, old, batch, terms = seen_by(PUBLISHED)
    with torch.no_grad():
        raw_old = old.project(
            old.pool(old.backbone.forward_features((batch - old.mean) / old.deviation))
        )
    raw = task.embedder.raw(batch)
    wanted = functional.linear(raw, task.head)
    torch.testing.assert_close(step.logits(step.new, step.new_head), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        terms["classification"], functional.cross_entropy(wanted, step.labels), atol=1e-5, rtol=1e-4
    )
    taught = step.logits(step.old, step.old_head, "old")
    torch.testing.assert_close(taught, raw_old @ step.old_head.T, atol=1e-4, rtol=1e-4)
    assert (taught - step.logits(step.old, step.old_head)).abs().max() > 1e-3
    torch.testing.assert_close(step.old.norm(dim=1), torch.ones(12))


def test_a_cosine_head_knows_no_lengths():
    step, task, *_ = seen_by(RECIPE)
    wanted = functional.linear(step.new, functional.normalize(task.head)) / RECIPE.temperature
    torch.testing.assert_close(step.logits(step.new, step.new_head), wanted)
    torch.testing.assert_close(step.logits(step.new, step.new_head, "old"), wanted)


def test_lengths_of_stored_old_embeddings_are_not_made_up():
    step, *_ = seen_by(PUBLISHED)
    step._old_model = None
    with pytest.raises(UnavailableEmbeddingError, match="use head = 'cosine'"):
        step.logits(step.new, step.old_head, "old")


def test_an_inner_product_head_begins_as_a_linear_layer_does():
    torch.manual_seed(0)
    wanted = torch.nn.Linear(64, 5000, bias=False).weight
    found = make_head(5000, 64, 3, "inner-product")
    assert found.std().item() == pytest.approx(wanted.std().item(), rel=0.01)
    assert found.abs().max() <= 1 / 8
    assert make_head(50, 64, 3).abs().max() > 1 / 8


# ----------------------------------------------------------------------------- shares and crops


def test_shares_are_cut_by_int_where_the_recipe_says_so():
    labels = np.repeat(np.arange(81_313), 1)
    assert len(choose(labels, Side(classes=0.3), 0, rounding="down").classes) == 24_393
    assert len(choose(labels, Side(classes=0.3), 0).classes) == 24_394
    counts = np.arange(1, 30)
    some = choose(np.repeat(np.arange(29), counts), Side(images=0.3), 0, rounding="down")
    # The published script: one of at most three images, else int(.3 n).
    assert np.bincount(some.labels).tolist() == [1 if n < 4 else int(n * 0.3) for n in counts]


def test_the_rounding_of_a_recipe_reaches_the_split():
    content = {**CONTENT, "methods": ["independent"]}
    down, nearest = (
        make_plan(compose(content, [f"share_rounding={kind}"]))[0].old
        for kind in ("down", "nearest")
    )
    assert down.recipe.share_rounding == "down"
    assert down.key != nearest.key


@pytest.mark.parametrize("size", [(640, 480), (97, 31), (30, 400), (5, 5), (1, 1), (3, 100)])
def test_a_window_is_the_one_that_torchvision_draws(monkeypatch, size):
    width, height = size
    recipe = Recipe(crop_area=(0.08, 1.0), crop_ratio=4 / 3)
    for seed in range(50):
        generator = np.random.default_rng(seed)

        class Drawn:
            def uniform_(self, low, high, generator=generator):
                return torch.tensor(generator.uniform(float(low), float(high)), dtype=torch.float64)

        def randint(low, high, size, generator=generator):
            return torch.tensor(generator.integers(low, high))

        fake = SimpleNamespace(
            log=lambda ratio: ratio.double().log(),
            **{"tensor": lambda x: torch.tensor(x, dtype=torch.float64), "exp": torch.exp},
            **{"empty": lambda n: Drawn(), "randint": randint},
        )
        monkeypatch.setattr(transforms, "torch", fake)
        top, left, high, wide = transforms.RandomResizedCrop.get_params(
            Image.new("L", size), [0.08, 1.0], [3 / 4, 4 / 3]
        )
        found = draw_window(recipe, np.random.default_rng(seed), width, height)
        assert found == (left, top, left + wide, top + high)
        assert 0 <= found[0] < found[2] <= width
        assert 0 <= found[1] < found[3] <= height


@pytest.fixture
def photographs(tmp_path):
    """Files of several sizes, and what torchvision makes of a window of each."""
    generator = np.random.default_rng(0)
    names = []
    for place, (width, height) in enumerate([(120, 50), (40, 90), (64, 64), (200, 33)]):
        pixels = generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
        names.append(f"{place}.png")
        Image.fromarray(pixels).resize((width, height)).save(tmp_path / names[-1])
    return tmp_path, names


def test_crops_are_cut_from_the_file_s_own_pixels(photographs):
    root, names = photographs
    recipe = PUBLISHED.model_copy(update={"image_size": 24, "flip": 0.0, "batch_size": 2})
    files = FileImages(root, names, 24)
    seeds = np.arange(100, 104)
    expected = []
    for name, seed in zip(names, seeds, strict=True):
        with Image.open(root / name) as image:
            left, top, right, bottom = draw_window(recipe, np.random.default_rng(seed), *image.size)
            cut = vision.resized_crop(image, top, left, bottom - top, right - left, [24, 24])
            expected.append(torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1))
    crops = OriginalCrops(files, np.arange(4), seeds, recipe)
    assert torch.equal(crops.read([3, 0, 2]), torch.stack([expected[i] for i in (3, 0, 2)]))
    # Through what lies between a data set and its files: packed pixels, a part of the rows.
    packed = PackedWhenRead(files, 24, root / "packed")
    some = SomeImages(packed, np.array([2, 1]))
    again = OriginalCrops(some, np.array([1, 0]), seeds[[1, 2]], recipe)
    assert torch.equal(again.read([0, 1]), torch.stack([expected[1], expected[2]]))
    assert not (root / "packed").exists()


@pytest.mark.parametrize("readers", [0, 2])
def test_batches_of_originals_depend_on_seed_and_epoch_alone(photographs, readers):
    root, names = photographs
    recipe = PUBLISHED.model_copy(update={"image_size": 24, "flip": 0.5, "batch_size": 2})
    train = ImageSet(FileImages(root, names * 2, 24), np.arange(8) % 4, tuple(map(str, range(8))))
    subset = choose(train.labels, Side(), 0)

    def drawn(seed, epoch, feed=None):
        feed = feed or Feed(readers=readers)
        return torch.cat([seen for seen, *_ in batches(train, subset, recipe, seed, epoch, feed)])

    one = drawn(0, 0)
    assert one.shape == (8, 3, 24, 24)
    assert 0 <= one.min() < one.max() <= 1
    assert torch.equal(one, drawn(0, 0))
    assert not torch.equal(one, drawn(0, 1))
    assert not torch.equal(one, drawn(1, 0))
    halves = [drawn(0, 0, Feed(part=part, parts=2)) for part in (0, 1)]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), one)
    unflipped = recipe.model_copy(update={"flip": 0.0})
    plain = torch.cat([seen for seen, *_ in batches(train, subset, unflipped, 0, 0)])
    mirrored = [not torch.equal(a, b) for a, b in zip(one, plain, strict=True)]
    assert 0 < sum(mirrored) < 8
    assert all(
        torch.equal(a, b.flip(2) if m else b) for a, b, m in zip(one, plain, mirrored, strict=True)
    )


def test_pictures_in_memory_are_cropped_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30), np.uint8)
    found = ArrayImages(pixels).crops(
        [1], [lambda width, height: (5, 2, width - 5, height - 2)], 16
    )
    cut = (
        Image.fromarray(pixels[1]).crop((5, 2, 25, 18)).resize((16, 16), Image.Resampling.BILINEAR)
    )
    assert np.array_equal(found[0, 0].numpy(), np.asarray(cut))


def test_images_without_originals_are_told_of():
    image_set = images()
    subset = whole(image_set)
    with pytest.raises(BenchError, match="Noise has no original pictures .* number of pixels"):
        next(batches(image_set, subset, PUBLISHED, 0, 0))
