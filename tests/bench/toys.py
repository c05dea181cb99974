"""A small world for tests of the loop: random images of separable classes."""

from __future__ import annotations

import numpy as np
import torch

from bench.data.splits import choose
from bench.protocol import Context, ImageSet
from bench.suites.schema import Recipe, Side
from bench.training.learner import Learner
from bench.training.models import make_embedder, make_head

RECIPE = Recipe(
    backbone="test_resnet", width=16, image_size=16, epochs=2, batch_size=16, learning_rate=0.05
)


class Noise:
    """Images [N, 3, S, S] drawn around one random image per class."""

    def __init__(self, labels, size, seed=0):
        generator = np.random.default_rng(seed)
        centres = generator.integers(0, 256, (labels.max() + 1, 3, size, size))
        noise = generator.integers(-40, 41, (len(labels), 3, size, size))
        self.pixels = torch.from_numpy((centres[labels] + noise).clip(0, 255).astype(np.uint8))
        self.reads = []

    def __len__(self):
        return len(self.pixels)

    def read(self, rows):
        self.reads.append(np.asarray(rows).copy())
        return self.pixels[torch.as_tensor(np.asarray(rows))]


def images(classes=6, each=8, size=16):
    labels = np.repeat(np.arange(classes), each)
    return ImageSet(
        Noise(labels, size), labels, tuple(f"image-{row}" for row in range(len(labels)))
    )


def no_old_context(subset, recipe=RECIPE):
    classes = len(subset.classes)
    return Context(
        old_width=0,
        new_width=recipe.width,
        class_count=classes,
        temperature=recipe.temperature,
        old_head=torch.zeros(0, 0),
        old_row=torch.full((classes,), -1),
        labels=torch.from_numpy(subset.labels),
        old_embeddings=torch.zeros(len(subset), 0),
    )


def with_old_context(subset, old_embedder, image_set, recipe=RECIPE):
    """An old system of the same classes: its head is the mean old embedding of each class."""
    classes = len(subset.classes)
    with torch.no_grad():
        old = old_embedder(image_set.images.read(subset.rows).float() / 255)
    labels = torch.from_numpy(subset.labels)
    head = torch.stack([old[labels == label].mean(0) for label in range(classes)])
    return Context(
        old_width=recipe.width,
        new_width=recipe.width,
        class_count=classes,
        temperature=recipe.temperature,
        old_head=head,
        old_row=torch.arange(classes),
        labels=labels,
        old_embeddings=old,
    )


def whole(image_set):
    return choose(image_set.labels, Side(), seed=0)


def make_task(method, context, recipe=RECIPE):
    method.prepare(context)
    return Learner(
        make_embedder(recipe, 1), make_head(context.class_count, recipe.width, 2), method
    )
