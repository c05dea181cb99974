"""The same concept drawn by many icon families, from fonts that arrive as ordinary wheels.

A query is one family's drawing of a concept; right answers are the other families' drawings of
it. The fonts lie in the wheels of QtAwesome and the `tkinter-icons-*` packs, which are located and
never imported, and are rendered with Pillow. Half of the concepts train; the other half are query
and gallery. Licences of the fonts come with the wheels.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from bench.errors import BenchError
from bench.images import ArrayImages
from bench.protocol import DatasetAdapter, ImageSet, RetrievalData
from bench.relevance import Relevance
from bench.settings import Settings

Drawing = NDArray[np.uint8]
RENDER_POINTS, MARGIN = 160, 0.15
COMPARED_SIZE = 64  # duplicates are looked for at this size, whatever the size asked for
NEAR = 2.0  # mean absolute difference of two drawings below which one is dropped


@dataclass(frozen=True)
class Family:
    """An icon font and its map from names to code points, inside an installed wheel."""

    name: str
    distribution: str
    package: str
    font: str
    names: str

    def folder(self) -> Path:
        """Locate the package without importing it; raises BenchError when it is not there."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise BenchError(
                f"the icons of '{self.name}' come from the package {self.distribution}, which is "
                f"not installed; run `pip install {self.distribution}`"
            )
        return Path(spec.origin).parent


def _qtawesome(name: str, stem: str, version: str) -> Family:
    font, names = f"fonts/{stem}-{version}.ttf", f"fonts/{stem}-charmap-{version}.json"
    return Family(name, "QtAwesome", "qtawesome", font, names)


def _pack(name: str, pack: str, font: str, names: str = "glyphmap.json") -> Family:
    return Family(name, f"tkinter-icons-{pack}", f"tkinter_icons_{pack}", font, names)


FAMILIES = (
    _qtawesome("font-awesome-solid", "fontawesome6-solid-webfont", "6.7.2"),
    _qtawesome("font-awesome-regular", "fontawesome6-regular-webfont", "6.7.2"),
    _qtawesome("material-design", "materialdesignicons6-webfont", "6.9.96"),
    _qtawesome("phosphor", "phosphor", "1.3.0"),
    _qtawesome("remix", "remixicon", "2.5.0"),
    _qtawesome("codicon", "codicon", "0.0.36"),
    _qtawesome("elusive", "elusiveicons-webfont", "2.0"),
    _pack("bootstrap", "bs", "assets/bootstrap.ttf", "assets/glyphmap.json"),
    _pack("lucide", "lucide", "fonts/lucide.ttf"),
    _pack("material", "gmi", "fonts/MaterialIcons-Regular.ttf", "glyphmap-baseline.json"),
    _pack("fluent", "fluent", "fonts/FluentSystemIcons-Regular.ttf", "glyphmap-regular.json"),
    _pack("fluent-filled", "fluent", "fonts/FluentSystemIcons-Filled.ttf", "glyphmap-filled.json"),
    _pack("ionicons", "ion", "fonts/ionicons.ttf"),
    _pack("eva", "eva", "fonts/eva-icons.ttf"),
    _pack("typicons", "typicons", "fonts/typicons.ttf"),
)


def concept(name: str) -> str:
    """Reduce an icon's name to what it depicts: without a family's prefix, size or style."""
    name = re.sub(r"^(icon|ion|eva|typcn)-", "", name.lower())
    name = re.sub(r"^(md|ios)-", "", name)
    name = re.sub(r"^ic-fluent-(.+)-\d+-(regular|filled)$", r"\1", name)
    return re.sub(r"-(fill|filled|outline|outlined|line)$", "", name)


class Icons(DatasetAdapter):
    """Concepts drawn by at least `families` icon families; half train, half are searched."""

    class Config(Settings):
        families: int = Field(4, ge=2, description="families that must draw a concept")

    def revision(self) -> str:
        packages = sorted({family.distribution for family in FAMILIES} | {"pillow"})
        versions = [f"{name} {_version(name)}" for name in packages]
        content = [*versions, self.config.model_dump_json(), Path(__file__).read_text()]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        path = cache / f"{self.revision()}-{image_size}.npz"
        packed = _read(path)
        if packed is None:
            packed = self._build(image_size)
            _write(path, packed)
        ids, pixels = packed["ids"], packed["pixels"]
        concepts = np.array([name.split("/")[0] for name in ids])
        names = np.array(sorted(set(concepts.tolist()), key=_shuffled))
        training = np.isin(concepts, names[: len(names) // 2])
        train, gallery = (
            ImageSet(
                ArrayImages(pixels[part].astype(np.uint8, copy=False)),
                np.unique(concepts[part], return_inverse=True)[1].astype(np.int64),
                tuple(ids[part].tolist()),
            )
            for part in (training, ~training)
        )
        relevance = Relevance.among_themselves(gallery.labels)
        counts = json.loads(str(packed["counts"]))
        return RetrievalData(train, gallery, gallery, relevance, counts=counts)

    def _build(self, size: int) -> dict[str, NDArray[np.generic]]:
        """Render all drawings, drop what is ambiguous or double, and count what was dropped."""
        groups = _named_alike(self.config.families)
        drawn = {
            name: [
                (f"{name}/{family}/{icon}", *pair)
                for family, icon, code, font in drawings
                if (pair := _render(font, code, (COMPARED_SIZE, size))) is not None
            ]
            for name, drawings in groups.items()
        }
        elsewhere = _in_several(
            [[small.tobytes() for _, small, _ in one] for one in drawn.values()]
        )
        counts = {"candidates": sum(map(len, drawn.values())), "in_several_concepts": 0}
        counts |= {"near_duplicates": 0, "in_small_concepts": 0}
        ids: list[str] = []
        pixels: list[Drawing] = []
        for drawings in drawn.values():
            unambiguous = [entry for entry in drawings if entry[1].tobytes() not in elsewhere]
            kept: list[tuple[str, Drawing, Drawing]] = []
            for entry in unambiguous:
                if not any(_difference(entry[1], other[1]) < NEAR for other in kept):
                    kept.append(entry)
            counts["in_several_concepts"] += len(drawings) - len(unambiguous)
            counts["near_duplicates"] += len(unambiguous) - len(kept)
            if len(kept) < self.config.families:
                counts["in_small_concepts"] += len(kept)
                continue
            ids += [entry[0] for entry in kept]
            pixels += [entry[2] for entry in kept]
        counts |= {"drawings": len(ids), "concepts": len({name.split("/")[0] for name in ids})}
        counts["families"] = len(FAMILIES)
        return {
            "ids": np.array(ids),
            "pixels": np.stack(pixels),
            "counts": np.array(json.dumps(counts)),
        }


Named = tuple[str, str, int, ImageFont.FreeTypeFont]


def _named_alike(families: int) -> dict[str, list[Named]]:
    """Group the icons of all families by concept: (family, icon, code point, font) each."""
    groups: dict[str, list[Named]] = defaultdict(list)
    for family in FAMILIES:
        folder = family.folder()
        font = ImageFont.truetype(str(folder / family.font), RENDER_POINTS)
        seen = set()
        for icon, code in _names(folder / family.names):
            name = concept(icon)
            if (name, code) not in seen:
                seen.add((name, code))
                groups[name].append((family.name, icon, code, font))
    return {
        name: drawings
        for name, drawings in sorted(groups.items())
        if len({family for family, *_ in drawings}) >= families
    }


def _names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each icon's name and code point: of its sizes only 24, else 20, and one weight."""
    table = {name.replace("_", "-"): code for name, code in json.loads(path.read_text()).items()}
    for icon, code in sorted(table.items()):
        sized = re.fullmatch(r"(ic-fluent-.+-)(\d+)(-regular|-filled)", icon)
        if sized and sized[2] != "24" and (sized[2] != "20" or f"{sized[1]}24{sized[3]}" in table):
            continue
        weighted = re.fullmatch(r"(.+)-(thin|light|bold)", icon)
        if weighted and weighted[1] in table:
            continue
        yield icon, int(code, 16) if isinstance(code, str) else int(code)


def _render(
    font: ImageFont.FreeTypeFont, code: int, sizes: tuple[int, int]
) -> tuple[Drawing, Drawing] | None:
    """Draw black on white, centred with a margin, at both sizes; None for an empty glyph."""
    left, top, right, bottom = font.getbbox(chr(code))
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    side = round(max(width, height) / (1 - 2 * MARGIN))
    canvas = Image.new("L", (side, side), 255)
    corner = ((side - width) / 2 - left, (side - height) / 2 - top)
    ImageDraw.Draw(canvas).text(corner, chr(code), font=font, fill=0)
    compared, wanted = (
        np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS)) for size in sizes
    )
    return compared, wanted


def _in_several(concepts: list[list[bytes]]) -> set[bytes]:
    """Find drawings that stand under several concepts: no name of theirs is the right one."""
    owner: dict[bytes, int] = {}
    several = set()
    for position, drawings in enumerate(concepts):
        several |= {drawing for drawing in drawings if owner.get(drawing, position) != position}
        owner |= dict.fromkeys(drawings, position)
    return several


def _difference(one: Drawing, other: Drawing) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _shuffled(name: str) -> str:
    """Sort key that splits concepts the same way whatever else the dataset holds."""
    return hashlib.sha256(name.encode()).hexdigest()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _read(path: Path) -> dict[str, NDArray[np.generic]] | None:
    """Read packed drawings; None when the file is not there or damaged (members carry a CRC)."""
    try:
        with np.load(path, allow_pickle=False) as packed:
            return {name: packed[name] for name in ("ids", "pixels", "counts")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, packed: dict[str, NDArray[np.generic]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as file:
        np.savez(file, allow_pickle=False, **packed)
    os.replace(name, path)
