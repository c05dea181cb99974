import json

import pytest
import torch
from torch import nn

from bench.costs.speed import operations
from tests.command import bench, here

SMALL = ["--set", "image_size=16", "--set", "width=16", "--set", "batch_size=8", "--repeats", "2"]


def test_operations_of_a_linear_layer_and_of_a_convolution_by_hand():
    linear, convolution = nn.Linear(3, 5), nn.Conv2d(3, 4, kernel_size=3, padding=1)
    with torch.no_grad():
        assert operations(lambda: linear(torch.zeros(7, 3))) == 2 * 7 * 3 * 5
    # 2 images, 4 channels of 8 × 8 outputs, each a sum of 3 × 3 × 3 products.
    images = torch.zeros(2, 3, 8, 8)
    with torch.inference_mode():
        forward = operations(lambda: convolution(images))
    assert forward == 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)
    # Backwards, weights need the same again; the inputs need no gradient here.
    assert operations(lambda: convolution(images).sum().backward()) == 2 * forward


@pytest.mark.slow
def test_speed_reports_shares_of_the_peak(tmp_path):
    done = bench("speed", *SMALL, "--method", "l2", "--json", tmp_path / "speed.json")
    content = json.loads((tmp_path / "speed.json").read_text())
    assert content["threads"] == 1
    assert content["precision"] in done.stdout
    speeds = {speed["name"]: speed for speed in content["speeds"]}
    for name, speed in speeds.items():
        assert name in done.stdout
        assert len(speed["per_second"]) == 2
        assert min(speed["per_second"]) > 0
        assert 0 < speed["share_of_peak"] < 1.5
        expected = speed["median"] * speed["operations"] / content["peaks"][speed["precision"]]
        assert speed["share_of_peak"] == pytest.approx(expected)
    plain, distilled, forward = (
        speeds[name]["operations"]
        for name in ("training, independent", "training, l2", "embedding")
    )
    # Forward and twice backward, but for the first layer's inputs; the old model's forward on top.
    assert 2.9 < plain / forward < 3
    assert (distilled - plain) / forward == pytest.approx(1, rel=0.001)


def test_a_method_without_training_is_refused():
    done = here("speed", *SMALL, "--method", "procrustes", check=False)
    assert done.returncode == 1
    assert "'procrustes' has no training of its own" in " ".join(done.stderr.split())
