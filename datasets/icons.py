"""The same concept drawn by many icon families, from fonts that arrive as ordinary wheels.

A query is one drawing of a concept; right answers are the drawings of it in the gallery. The fonts
lie in the wheels of QtAwesome and the `tkinter-icons-*` packs, with their licences; they are
located, never imported, and rendered with Pillow. Half of the concepts train; of the others, a
third of each concept's drawings ask, and the rest is the gallery.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bench.data.images import ArrayImages
from bench.data.queries import QuerySettings
from bench.data.splits import searched_split
from bench.errors import BenchError
from bench.protocol import DatasetAdapter, RetrievalData
from bench.storage.digest import digest, source_digest
from bench.storage.manifest import stage_metadata
from bench.storage.store import Store
from datasets import _icon_fonts
from datasets._icon_fonts import FONTS, Drawing, concept, draw, renderer_version

COMPARED_SIZE = 64  # doubles are looked for at this size: the items are the same at every size
NEAR = 2.0  # grey levels of mean absolute difference below which a drawing is a double


@dataclass(frozen=True)
class Icon:
    """One drawing: as it is compared, and at the size that was asked for."""

    id: str
    family: str
    compared: Drawing
    wanted: Drawing


Concepts = dict[str, list[Icon]]


class Icons(DatasetAdapter):
    """Concepts drawn by at least `families` icon families; half train, half are searched."""

    class Config(QuerySettings):
        families: int = Field(4, ge=2, description="icon families that must draw a concept")

    def revision(self) -> str:
        """Name the content by what decides it: fonts, renderer, configuration and source."""
        versions = {font.wheel: font.version for font in FONTS}
        source = source_digest([Path(__file__), Path(_icon_fonts.__file__)])
        return digest([versions, renderer_version(), self.config.model_dump(), source])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        folder = Store(cache).ensure(
            "drawings",
            f"{self.revision()}-{image_size}",
            lambda folder: self._build(image_size, folder),
        )
        content = stage_metadata(folder)
        pixels = np.load(folder / "pixels.npy", allow_pickle=False)
        ids: list[str] = content["ids"]
        concepts = np.array([name.split("/")[0] for name in ids])
        shuffled = sorted(set(concepts.tolist()), key=_place)
        training = np.isin(concepts, shuffled[: len(shuffled) // 2])
        labels, images = np.unique(concepts, return_inverse=True)[1], ArrayImages(pixels)
        return searched_split(
            images,
            labels.astype(np.int64),
            ids,
            training,
            self.config.queries,
            concepts.tolist(),
            content["counts"],
        )

    def _build(self, image_size: int, folder: Path) -> dict[str, Any]:
        """Draw all concepts into `pixels.npy` [N, S, S]; return ids and what was dropped."""
        drawn = _drawn_alike(self.config.families, image_size)
        counts = {"candidates": _total(drawn)}
        unambiguous = _without_shared(drawn)
        counts["shared_between_concepts"] = counts["candidates"] - _total(unambiguous)
        distinct = {name: _without_doubles(icons) for name, icons in unambiguous.items()}
        counts["near_duplicates"] = _total(unambiguous) - _total(distinct)
        kept = {
            name: icons
            for name, icons in distinct.items()
            if len({icon.family for icon in icons}) >= self.config.families
        }
        if len(kept) < 2:
            raise BenchError(
                f"{len(kept)} concepts are drawn by {self.config.families} of the "
                f"{len({font.family for font in FONTS})} icon families, and a training and a "
                "search half need two at least; set icons.families lower"
            )
        counts["in_dropped_concepts"] = _total(distinct) - _total(kept)
        counts |= {"dropped_concepts": len(drawn) - len(kept), "concepts": len(kept)}
        icons = [icon for name in sorted(kept) for icon in kept[name]]
        counts |= {"drawings": len(icons), "families": len({icon.family for icon in icons})}
        np.save(folder / "pixels.npy", np.stack([icon.wanted for icon in icons]))
        return {"ids": [icon.id for icon in icons], "counts": counts}


def _drawn_alike(families: int, image_size: int) -> Concepts:
    """Draw every icon whose concept at least `families` families name."""
    named = defaultdict(list)
    for source in FONTS:
        font = source.load()
        aliases = set()
        for icon, code in source.icons():
            name = concept(icon)
            if (name, code) not in aliases:
                aliases.add((name, code))
                named[name].append((source, font, icon, code))
    drawn: Concepts = {}
    for name, icons in named.items():
        if len({source.family for source, *_ in icons}) >= families:
            drawn[name] = [
                Icon(f"{name}/{source.name}/{icon}", source.family, *pixels)
                for source, font, icon, code in icons
                if (pixels := draw(font, code, (COMPARED_SIZE, image_size))) is not None
            ]
    return drawn


def _without_shared(concepts: Concepts) -> Concepts:
    """Drop each drawing that stands under several concepts, from all of them.

    Whichever name it kept, a right answer to the other name's queries would count as wrong.
    Drawings that are merely close stay: a lock differs from an open lock in few pixels, and
    telling them apart is the task.
    """
    owners = defaultdict(set)
    for name, icons in concepts.items():
        for icon in icons:
            owners[icon.compared.tobytes()].add(name)
    return {
        name: [icon for icon in icons if len(owners[icon.compared.tobytes()]) == 1]
        for name, icons in concepts.items()
    }


def _without_doubles(icons: list[Icon]) -> list[Icon]:
    """Keep the first of the drawings of one concept that are almost the same."""
    kept: list[Icon] = []
    for icon in icons:
        if all(_difference(icon.compared, other.compared) >= NEAR for other in kept):
            kept.append(icon)
    return kept


def _difference(one: Drawing, other: Drawing) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _total(concepts: Concepts) -> int:
    return sum(map(len, concepts.values()))


def _place(name: str) -> str:
    """Sort key that shuffles concepts the same way whatever the seed of a training is."""
    return hashlib.sha256(name.encode()).hexdigest()
