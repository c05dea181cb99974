"""What a page shows of queries and items beside their ids: texts and pictures from a table."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.decode import decode, inside
from bench.data.embedding_files import EmbeddingTable
from bench.data.tables import read_csv
from bench.errors import BenchError

_SIDE = 96  # pixels of a picture
_LONGEST = 200  # characters of a text


@dataclass(frozen=True)
class Shown:
    """Texts and picture files by id; pictures lie below `folder`."""

    folder: Path = Path()
    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Text of an id, cut to what fits; empty if there is none."""
        words = " ".join(self.texts.get(name, "").split())
        return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"

    def picture(self, name: str) -> str:
        """Picture of an id as a data URI, empty if it has none; raises as `decode` does."""
        if name not in self.pictures:
            return ""
        place = inside(self.folder, self.pictures[name])
        pixels = decode(place, _SIDE, "crop").transpose(1, 2, 0)
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def read_shown(path: Path | str | None, named: EmbeddingTable) -> Shown:
    """Read a CSV `id,text`, `id,picture` or `id,text,picture`, of ids or row numbers of `named`.

    Paths of pictures are below the folder of the table. Raises BenchError for a table without
    either, ids that repeat, and a table that knows none of the ids.
    """
    if path is None:
        return Shown()
    path = Path(path)
    table = read_csv(path, ["id"], optional=["text", "picture"], only=True)
    if not {"text", "picture"} & set(table):
        raise BenchError(f"{path} has only ids; expected a column text, picture or both")
    ids = table["id"].tolist()
    if len(set(ids)) < len(ids):
        twice = table["id"][table["id"].duplicated()]
        raise BenchError(
            f"{path} line {twice.index[0]}: id '{twice.iloc[0]}' occurs again; expected each once"
        )
    if not set(ids) & named.numbers().keys():
        raise BenchError(
            f"{path} knows no id of {named.path}, such as '{named.name(0)}'; expected its ids"
        )
    texts, pictures = (
        dict(zip(ids, table[name].tolist(), strict=True)) if name in table else {}
        for name in ("text", "picture")
    )
    return Shown(path.parent, texts, pictures)
