from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.settings import validated
from datasets.synthetic import Synthetic


def load(size=32, **options):
    config = validated(Synthetic.Config, options, "synthetic")
    return Synthetic(config).load(size, Path("unused"))


def pixels(images):
    return images.images.read(np.arange(len(images)))


def mean_average_precision(embeddings, relevance):
    """Naive: walk each ranking, and average the precision at each right answer."""
    embeddings = functional.normalize(embeddings.flatten(1), dim=1)
    values = []
    for query, row in enumerate((embeddings @ embeddings.T).numpy()):
        ranking = [item for item in np.argsort(-row) if item not in relevance.junk[query]]
        right = np.isin(ranking, relevance.relevant[query])
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        values.append(precision[right].mean())
    return np.mean(values)


@pytest.mark.parametrize(("classes", "training"), [(6, 3), (7, 3)])
def test_half_of_the_classes_train_and_the_others_are_searched(classes, training):
    data = load(classes=classes, images_per_class=5, size=20)
    others = classes - training
    for part, count, each in (
        (data.train, training, 5),
        (data.query, others, 2),
        (data.gallery, others, 3),
    ):
        assert np.bincount(part.labels).tolist() == [each] * count
        assert pixels(part).shape == (each * count, 3, 20, 20)
    assert {name.split("/")[0] for name in data.train.ids}.isdisjoint(
        name.split("/")[0] for name in data.gallery.ids
    )
    assert len({*data.train.ids, *data.query.ids, *data.gallery.ids}) == 5 * classes
    assert data.counts == {
        "classes": classes,
        "images": 5 * classes,
        "train_images": 5 * training,
        "queries": 2 * others,
        "gallery": 3 * others,
        "groups": others,
    }


def test_a_seed_decides_every_pixel():
    one, again, other = load(seed=3), load(seed=3), load(seed=4)
    assert torch.equal(pixels(one.train), pixels(again.train))
    assert not torch.equal(pixels(one.train), pixels(other.train))


def test_an_image_is_a_sum_of_shifted_waves():
    """Rebuild one noiseless image pixel by pixel from the parameters that a seed draws."""
    size, classes, each = 9, 4, 2
    data = load(size, classes=classes, images_per_class=each, noise=0, variation=0.4, seed=5)
    generator = np.random.default_rng(5)
    frequency = generator.integers(-3, 4, (classes, 3, 4, 2))
    amplitude = generator.normal(0, 0.12, (classes, 3, 4))
    vary = generator.normal(1, 0.4, (classes * each, 3, 4))
    shift = generator.uniform(0, 1, (classes * each, 2))
    brightness = generator.normal(0.5, 0.1, classes * each)
    row, label = 3, 1
    for channel, y, x in np.ndindex(3, size, size):
        place = (np.array([y, x]) + 0.5) / size + shift[row]
        waves = (
            vary[row, channel]
            * amplitude[label, channel]
            * np.cos(2 * np.pi * frequency[label, channel] @ place)
        )
        value = np.clip(255 * (brightness[row] + waves.sum()), 0, 255)
        assert abs(float(pixels(data.train)[row, channel, y, x]) - value) <= 1


def test_revision_follows_the_configuration():
    options = [
        {},
        {"seed": 1},
        {"classes": 6},
        {"images_per_class": 3},
        {"noise": 0.1},
        {"variation": 0.1},
        {"queries": 0.5},
    ]
    revisions = [Synthetic(Synthetic.Config(**option)).revision() for option in options]
    assert len(set(revisions)) == len(options)
    assert revisions[0] == Synthetic().revision()


def test_a_small_network_learns_what_pixels_do_not_show():
    torch.manual_seed(0)
    data = load(queries="gallery")
    train, gallery = (pixels(part).float() / 255 - 0.5 for part in (data.train, data.gallery))
    labels = torch.from_numpy(data.train.labels)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    head = nn.Linear(32, int(labels.max()) + 1)
    optimiser = torch.optim.Adam([*network.parameters(), *head.parameters()], 1e-2)
    for _ in range(15):
        for rows in torch.randperm(len(train)).split(32):
            optimiser.zero_grad()
            functional.cross_entropy(head(network(train[rows])), labels[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        learned = mean_average_precision(network.eval()(gallery), data.relevance)
    raw = mean_average_precision(gallery, data.relevance)
    assert raw < 0.3
    assert raw + 0.15 < learned < 0.95
