"""Icon fonts inside installed wheels: where they lie, what their icons depict, how they look."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, __version__, features

from bench.errors import BenchError

Drawing = NDArray[np.uint8]
RENDER_POINTS, MARGIN = 160, 0.15


@dataclass(frozen=True)
class IconFont:
    """One style of an icon family: a font and its map from names to code points, in a wheel."""

    family: str
    style: str
    wheel: str
    package: str
    font_file: str
    names_file: str

    @property
    def name(self) -> str:
        return f"{self.family}-{self.style}" if self.style else self.family

    @property
    def version(self) -> str:
        """Installed version of the wheel; raises BenchError when it is not there."""
        try:
            return metadata.version(self.wheel)
        except metadata.PackageNotFoundError as error:
            raise self._missing() from error

    def load(self) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self._path(self.font_file)), RENDER_POINTS)

    def icons(self) -> Iterator[tuple[str, int]]:
        """Yield name and code point of each icon: one of its sizes, one of its stroke weights.

        Sizes and weights of one drawing differ in little but thickness; a search that only has to
        find those would be too easy.
        """
        text = self._path(self.names_file).read_text(encoding="utf-8")
        table = {name.lower().replace("_", "-"): code for name, code in json.loads(text).items()}
        for icon, code in sorted(table.items()):
            sized = re.fullmatch(r"(ic-fluent-.+-)(\d+)(-regular|-filled)", icon)
            if sized and sized[2] != "24":
                preferred = f"{sized[1]}24{sized[3]}"
                if sized[2] != "20" or preferred in table:
                    continue
            weighted = re.fullmatch(r"(.+)-(thin|light|bold)", icon)
            if weighted and weighted[1] in table:
                continue
            yield icon, int(code, 16) if isinstance(code, str) else int(code)

    def _path(self, file: str) -> Path:
        """Locate a file of the package, which is never imported; raises BenchError without it."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise self._missing()
        path = Path(spec.origin).parent / file
        if not path.is_file():
            raise BenchError(
                f"{self.wheel} {self.version} has no file {path}, from which the {self.name} icons "
                f"are drawn; install the version that this project's pyproject.toml names"
            )
        return path

    def _missing(self) -> BenchError:
        return BenchError(
            f"the {self.name} icons come from the wheel {self.wheel}, which is not installed; "
            f"run `pip install {self.wheel}`"
        )


def _qtawesome(family: str, stem: str, version: str, style: str = "") -> IconFont:
    font, names = f"fonts/{stem}-{version}.ttf", f"fonts/{stem}-charmap-{version}.json"
    return IconFont(family, style, "QtAwesome", "qtawesome", font, names)


def _pack(
    family: str, pack: str, font: str, names: str = "glyphmap.json", style: str = ""
) -> IconFont:
    return IconFont(family, style, f"tkinter-icons-{pack}", f"tkinter_icons_{pack}", font, names)


FONTS = (
    _qtawesome("font-awesome", "fontawesome6-solid-webfont", "6.7.2", "solid"),
    _qtawesome("font-awesome", "fontawesome6-regular-webfont", "6.7.2", "regular"),
    _qtawesome("material-design", "materialdesignicons6-webfont", "6.9.96"),
    _qtawesome("phosphor", "phosphor", "1.3.0"),
    _qtawesome("remix", "remixicon", "2.5.0"),
    _qtawesome("codicon", "codicon", "0.0.36"),
    _qtawesome("elusive", "elusiveicons-webfont", "2.0"),
    _pack("bootstrap", "bs", "assets/bootstrap.ttf", "assets/glyphmap.json"),
    _pack("lucide", "lucide", "fonts/lucide.ttf"),
    _pack("material", "gmi", "fonts/MaterialIcons-Regular.ttf", "glyphmap-baseline.json"),
    _pack(
        "fluent",
        "fluent",
        "fonts/FluentSystemIcons-Regular.ttf",
        "glyphmap-regular.json",
        "regular",
    ),
    _pack(
        "fluent", "fluent", "fonts/FluentSystemIcons-Filled.ttf", "glyphmap-filled.json", "filled"
    ),
    _pack("ionicons", "ion", "fonts/ionicons.ttf"),
    _pack("eva", "eva", "fonts/eva-icons.ttf"),
    _pack("typicons", "typicons", "fonts/typicons.ttf"),
)

# Names that families give to the same thing. Each pair was seen to share a glyph within a family
# or to be drawn almost alike by several; left apart, right answers would count as wrong.
_SYNONYMS = (
    "airplane plane|arrow-left arrow-back|bar-chart chart-bar|bell-off bell-slash|check checkmark|"
    "check-circle checkmark-circle circle-check|clock time|closed-caption closed-captioning|"
    "cloud-download cloud-arrow-down|cloud-upload cloud-arrow-up|droplet drop|eye-off eye-slash|"
    "fire flame|folder-plus folder-add|funnel filter|gear cog|home house|lock-open unlock|"
    "log-in login sign-in|log-out logout sign-out|mail email envelope|mail-open envelope-open|"
    "mic microphone|mic-off microphone-slash|minus subtract|"
    "minus-circle circle-minus subtract-circle|paperclip attachment|pencil edit|"
    "people group users|person user|person-add user-plus|pie-chart chart-pie|plus add|"
    "plus-circle add-circle circle-plus|pulse activity|puzzle-piece puzzle|sun brightness-high|"
    "warning alert|x close times xmark|x-circle circle-x circle-xmark close-circle"
)
_PREFERRED = {
    other: names[0] for names in map(str.split, _SYNONYMS.split("|")) for other in names[1:]
}


def concept(icon: str) -> str:
    """Reduce an icon's name to what it depicts: without a family's prefix, size or style."""
    name = re.sub(r"^(icon|ion|eva|typcn)-", "", icon)
    name = re.sub(r"^(md|ios|android)-", "", name)
    name = re.sub(r"^ic-fluent-(.+)-\d+-(regular|filled)$", r"\1", name)
    name = re.sub(r"-(fill|filled|outline|outlined|line)$", "", name)
    return _PREFERRED.get(name, name)


def draw(font: ImageFont.FreeTypeFont, code: int, sizes: tuple[int, ...]) -> list[Drawing] | None:
    """Draw black on white, centred with a margin, at each size; None for an empty glyph."""
    left, top, right, bottom = font.getbbox(chr(code))
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    side = round(max(width, height) / (1 - 2 * MARGIN))
    canvas = Image.new("L", (side, side), 255)
    corner = ((side - width) / 2 - left, (side - height) / 2 - top)
    ImageDraw.Draw(canvas).text(corner, chr(code), font=font, fill=0)
    drawn = {
        size: np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS))
        for size in set(sizes)
    }
    return [drawn[size] for size in sizes]


def renderer_version() -> str:
    """Name what turns a glyph into pixels: Pillow and the FreeType that it was built with."""
    return f"Pillow {__version__}, FreeType {features.version('freetype2')}"
