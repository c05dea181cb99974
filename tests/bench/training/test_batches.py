import torch
from torch.nn import functional

from bench.data.splits import choose
from bench.suites.schema import Recipe, Side
from bench.training.batches import augment, batches, batches_per_epoch, draw_views, resample
from tests.bench.toys import RECIPE, images


def test_without_any_change_augmentation_returns_the_image():
    recipe = Recipe(image_size=16, crop_area=(1, 1), crop_ratio=1, flip=0)
    pixels = images().images.read(range(5))
    same = augment(pixels, recipe, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, pixels / 255, atol=1e-5, rtol=0)


def test_a_certain_flip_mirrors_the_image():
    recipe = Recipe(image_size=16, crop_area=(1, 1), crop_ratio=1, flip=1)
    pixels = images().images.read(range(5))
    mirrored = augment(pixels, recipe, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mirrored, pixels.flip(3) / 255, atol=1e-5, rtol=0)


def test_a_crop_stays_inside_the_image_and_each_image_has_its_own():
    recipe = Recipe(image_size=64, crop_area=(0.25, 0.25), crop_ratio=1, flip=0)
    ramp = torch.arange(64).expand(64, 64).to(torch.uint8)
    pixels = ramp.expand(200, 3, 64, 64)
    cropped = augment(pixels, recipe, torch.Generator().manual_seed(0)) * 255
    left, right = cropped[:, 0, 0, 0], cropped[:, 0, 0, -1]
    torch.testing.assert_close(right - left, torch.full((200,), 31.5), atol=0.3, rtol=0)
    assert left.min() >= 0
    assert right.max() <= 63
    assert left.max() - left.min() > 25


def test_views_are_those_of_an_affine_map():
    recipe = Recipe(image_size=16, crop_area=(0.3, 1.5), crop_ratio=1.5, flip=0.5)
    pixels = torch.randint(0, 256, (40, 3, 20, 24), dtype=torch.uint8)
    views = draw_views(40, recipe, torch.Generator().manual_seed(0))
    maps = torch.zeros(40, 2, 3)
    for axis in range(2):
        maps[:, axis, axis], maps[:, axis, 2] = views[:, axis].unbind(1)
    grid = functional.affine_grid(maps, [40, 3, 16, 16], align_corners=False)
    expected = functional.grid_sample(
        pixels / 255, grid, padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(resample(pixels, views, 16), expected, atol=1e-5, rtol=0)


def test_a_crop_of_a_larger_image_keeps_its_detail():
    recipe = Recipe(image_size=16, crop_area=(0.25, 0.25), crop_ratio=1, flip=0)
    stripes = (torch.arange(64) % 4 < 2).to(torch.uint8) * 255
    large = stripes.expand(20, 3, 64, 64)
    small = large.reshape(20, 3, 16, 4, 16, 4).float().mean((3, 5)).to(torch.uint8)
    # Half of 64 pixels is seen in 16: two of each stripe's pixels meet in one.
    seen, lost = (
        augment(pixels, recipe, torch.Generator().manual_seed(0)) for pixels in (large, small)
    )
    assert seen.shape == lost.shape == (20, 3, 16, 16)
    assert seen.std(3).mean() > 0.2
    assert lost.std(3).mean() < 0.01


def test_batches_cover_an_epoch_and_depend_on_seed_and_epoch_alone():
    train = images(classes=5, each=7)
    subset = choose(train.labels, Side(), 0)

    def draw(seed, epoch):
        return list(batches(train, subset, RECIPE, seed, epoch))

    first, again = draw(0, 0), draw(0, 0)
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    seen = torch.cat([positions for _, positions, _ in first])
    assert len(first) == batches_per_epoch(subset, RECIPE) == 2
    assert len(set(seen.tolist())) == len(seen) == 32
    for other in (draw(1, 0), draw(0, 1)):
        assert not torch.equal(other[0][1], first[0][1])
    for _, positions, labels in first:
        assert torch.equal(labels, torch.from_numpy(subset.labels)[positions])
