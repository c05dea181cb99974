import threading

import numpy as np
import pytest
import torch

from bench.data import images as sources
from bench.data.images import ArrayImages, PackedImages, PackedWhenRead


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)


@pytest.fixture
def colour():
    return np.random.default_rng(1).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)


def test_what_nobody_reads_is_not_packed(tmp_path):
    images = ArrayImages(np.zeros((3, 8, 8), np.uint8))
    packed = PackedWhenRead(images, 8, tmp_path / "packed")
    assert len(packed) == 3
    assert not (tmp_path / "packed").exists()
    assert packed.read([2]).shape == (1, 3, 8, 8)
    assert len(PackedImages(tmp_path / "packed", images, 8)) == 3


def test_packed_images_are_read_on_all_threads(colour, tmp_path, monkeypatch):
    packed = PackedWhenRead(ArrayImages(colour[:, :, :, :4]), 4, tmp_path / "packed").packed
    together, checksum = threading.Barrier(2), sources._checksum

    def two_at_a_time(*image):
        together.wait(timeout=30)
        return checksum(*image)

    monkeypatch.setattr(sources, "_checksum", two_at_a_time)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    read = packed.read([3, 0, 4, 3])
    np.testing.assert_array_equal(read.numpy(), colour[[3, 0, 4, 3], :, :, :4])


def test_rows_come_in_the_order_asked_for_and_may_repeat(colour):
    read = ArrayImages(colour).read([3, 0, 3])
    assert read.dtype == torch.uint8
    np.testing.assert_array_equal(read.numpy(), np.stack([colour[3], colour[0], colour[3]]))


def test_grey_becomes_three_equal_channels(grey):
    read = ArrayImages(grey).read(np.array([4, 1]))
    np.testing.assert_array_equal(read.numpy(), np.stack([[grey[4]] * 3, [grey[1]] * 3]))


@pytest.mark.parametrize("rows", [[], np.empty(0, dtype=np.int64)])
def test_no_rows_make_an_empty_batch(grey, rows):
    assert ArrayImages(grey).read(rows).shape == (0, 3, 4, 6)


def test_what_was_read_can_be_changed_without_changing_the_source(grey, tmp_path):
    np.save(tmp_path / "pixels.npy", grey)
    images = ArrayImages(np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    assert len(images) == 5
    images.read([2])[0, 0] = 0  # each channel has memory of its own, none of it the file's
    np.testing.assert_array_equal(images.read([2])[0].numpy(), [grey[2]] * 3)


def test_a_row_outside_is_an_error(grey):
    with pytest.raises(IndexError):
        ArrayImages(grey).read([5])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 4, 4), np.float32),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
    ],
)
def test_other_layouts_are_refused(pixels):
    with pytest.raises(ValueError, match=r"expected uint8 \[N, H, W\] or \[N, 3, H, W\]"):
        ArrayImages(pixels)
