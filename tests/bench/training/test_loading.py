"""Images read ahead by processes: the same images in the same order, and the same errors."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.decode import CorruptImageError
from bench.data.images import FileImages
from bench.data.splits import SomeImages
from bench.protocol import ImageSet
from bench.training.batches import Feed, batches
from bench.training.loading import read_ahead
from tests.bench.toys import RECIPE, whole

LABELS = np.repeat(np.arange(4), 10)


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    names = [f"{row}.png" for row in range(len(LABELS))]
    for name in names:
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return FileImages(tmp_path, names, RECIPE.image_size)


class Telling(FileImages):
    """Says in the first pixel which process read it."""

    def read(self, rows):
        pixels = super().read(rows)
        pixels[:, 0, 0, 0] = os.getpid() % 256
        return pixels


def epoch(images, feed):
    image_set = ImageSet(images, LABELS, tuple(map(str, range(len(LABELS)))))
    return list(batches(image_set, whole(image_set), RECIPE, 0, 0, feed))


def test_readers_bring_the_same_batches(files):
    alone, read = Feed(), Feed(readers=2)
    for one, two in zip(epoch(files, alone), epoch(files, read), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert alone.seconds["reading"] <= alone.seconds["waiting"]
    assert min(read.seconds.values()) > 0


def test_the_model_s_random_numbers_are_not_touched(files):
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    list(read_ahead(files, [np.arange(3)], 1))
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("decodes", [True, False])
def test_readers_read_what_is_decoded_and_nothing_else(files, decodes):
    images = Telling(files.root, files.paths, files.size)
    images.decodes = decodes
    reads = read_ahead(SomeImages(images, np.arange(4, 20)), [np.arange(3)] * 4, 2)
    readers = {int(pixels[0, 0, 0, 0]) for pixels, _ in reads}
    assert (os.getpid() % 256 in readers) != decodes
    assert len(readers) == (2 if decodes else 1)


@pytest.mark.parametrize("readers", [0, 2])
def test_a_corrupt_image_is_the_same_sentence_from_a_reader(files, readers):
    (files.root / "7.png").write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"^\S*7\.png cannot be decoded .*intact") as caught:
        list(read_ahead(files, [np.arange(5), np.arange(5, 10)], readers))
    assert "Traceback" not in str(caught.value)


def test_parts_of_a_batch_are_the_whole(files):
    whole_batches = epoch(files, Feed())
    halves = [epoch(files, Feed(part=part, parts=2)) for part in range(2)]
    for batch, first, second in zip(whole_batches, *halves, strict=True):
        assert torch.equal(torch.cat([first[0], second[0]]), batch[0])
        for place in (1, 2):
            assert torch.equal(first[place], batch[place])
            assert torch.equal(second[place], batch[place])
