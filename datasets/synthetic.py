"""Seeded patterns that a small network learns in seconds, for tests and trials.

Every class is a random smooth colour pattern; an image is the pattern shifted, brightened and
covered with noise, so that pixels alone find only part of what a trained model finds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.data.images import ArrayImages
from bench.data.queries import QuerySettings
from bench.data.splits import searched_split
from bench.protocol import DatasetAdapter, RetrievalData

WAVES = 4


class Synthetic(DatasetAdapter):
    """Half of the classes train; of the other half, a third of the images ask for the rest."""

    class Config(QuerySettings):
        classes: int = Field(24, ge=4, description="half of them train")
        images_per_class: int = Field(12, ge=2)
        noise: float = Field(0.25, ge=0, description="standard deviation; pixels span 0 to 1")
        variation: float = Field(0.3, ge=0, description="relative spread of a wave in its class")
        seed: int = 0

    def revision(self) -> str:
        source = Path(__file__).read_bytes() + self.config.model_dump_json().encode()
        return hashlib.sha256(source).hexdigest()[:12]

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        config = self.config
        labels = np.repeat(np.arange(config.classes), config.images_per_class)
        pixels = self._draw(labels, image_size)
        ids = [f"class-{label}/{row % config.images_per_class}" for row, label in enumerate(labels)]
        training = labels < config.classes // 2
        counts = {"classes": config.classes, "images": len(labels)}
        groups = [f"class-{label}" for label in labels.tolist()]
        images = ArrayImages(pixels)
        return searched_split(images, labels, ids, training, config.queries, groups, counts)

    def _draw(self, labels: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """Draw images [N, 3, size, size]: sums of shifted plane waves of the class, and noise."""
        generator = np.random.default_rng(self.config.seed)
        shape = (self.config.classes, 3, WAVES)
        frequency = generator.integers(-3, 4, (*shape, 2))
        amplitude = generator.normal(0, 0.12, shape)
        vary = generator.normal(1, self.config.variation, (len(labels), 3, WAVES))
        shift = generator.uniform(0, 1, (len(labels), 2))
        brightness = generator.normal(0.5, 0.1, (len(labels), 1, 1, 1))
        noise = generator.normal(0, self.config.noise, (len(labels), 1, size, size))
        picture = np.repeat(brightness + noise, 3, axis=1)
        axis = (np.arange(size) + 0.5) / size
        down, across = np.exp(2j * np.pi * np.multiply.outer(np.moveaxis(frequency, -1, 0), axis))
        # A shift of the picture turns the phase of each of its waves.
        phase = 2 * np.pi * np.einsum("ncwd,nd->ncw", frequency[labels], shift)
        turned = vary * amplitude[labels] * np.exp(1j * phase)
        for label in range(self.config.classes):
            rows = labels == label
            stretched = turned[rows][..., None] * down[label]
            picture[rows] += np.einsum(
                "ncwy,cwx->ncyx", stretched, across[label], optimize=True
            ).real
        return np.asarray((255 * picture).clip(0, 255), np.uint8)
