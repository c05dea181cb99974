"""Is a dataset complete on this machine? Files, published counts, decoding, speed, a look at it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Group
from rich.table import Table

from bench.data.decode import CorruptImageError
from bench.data.file_dataset import Contents, FileDataset, corrupt
from bench.data.images import FileImages, NoImages
from bench.errors import BenchError
from bench.output.texts import told
from bench.protocol import DatasetAdapter, ImageSet, RetrievalData
from bench.storage.files import temporary
from bench.suites.schema import Recipe
from bench.training.batches import augment

SAMPLE = 64
TILE, ROWS, COLUMNS = 96, 8, 8
NAMED_FAULTS = 20


@dataclass(frozen=True)
class DataReport:
    """What was found: counts, those published, files that are not there or not intact, speeds.

    `unanswered` says which query has no right answer where each needs one.
    `examined` counts the images that were decoded; `rates` are images per second of one process.
    """

    name: str
    counts: dict[str, int]
    published: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    examined: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    sheet: Path | None = None

    @property
    def differing(self) -> list[str]:
        """Counts that are not the published ones."""
        return [key for key, count in self.published.items() if self.counts.get(key) != count]

    @property
    def passed(self) -> bool:
        """Nothing is missing, corrupt, without an answer or of another number than published."""
        return not (self.missing or self.corrupt or self.unanswered or self.differing)

    def __rich__(self) -> Group:
        table = Table("", "found", "published", title=self.name, title_justify="left", box=None)
        for key, count in self.counts.items():
            published = self.published.get(key)
            mark = "" if published is None else f"{published:,}"
            style = "red" if key in self.differing else ""
            table.add_row(key.replace("_", " "), f"{count:,}", mark, style=style)
        return Group(table, *self._lines())

    def _lines(self) -> Iterator[str]:
        for kind, faults in (("missing or outside", self.missing), ("corrupt", self.corrupt)):
            yield f"{kind}: {len(faults):,}" + (f" of {self.examined:,}" * (kind == "corrupt"))
            yield from (f"  {told(fault)}" for fault in faults[:NAMED_FAULTS])
            if len(faults) > NAMED_FAULTS:
                yield f"  … and {len(faults) - NAMED_FAULTS:,} more"
        yield from (told(sentence) for sentence in self.unanswered)
        for stage, rate in self.rates.items():
            yield f"{stage}: {rate:,.0f} images/s"
        if self.sheet is not None:
            yield f"contact sheet: {self.sheet}"


def check(
    adapter: DatasetAdapter, name: str, cache: Path, sheet: Path, full: bool = False
) -> DataReport:
    """Check a dataset's files and counts and decode a sample of its images, or all with `full`.

    Writes a contact sheet: queries in the first column, right answers beside them. Raises
    BenchError where the dataset cannot even be listed.
    """
    if not isinstance(adapter, FileDataset) or not adapter.has_images:
        data = adapter.load(TILE, cache)
        if isinstance(data.gallery.images, NoImages):
            return DataReport(name, data.counts)
        draw_sheet(data, sheet)
        return DataReport(
            name,
            data.counts,
            examined=sum(len(one) for one in (data.train, data.gallery)),
            rates=speeds(data.gallery),
            sheet=sheet,
        )
    contents = adapter.contents()
    adapter.refuse_repeated(contents)
    counts = {**contents.counts, **adapter.compared(contents)}
    counts = {key: n for key, n in counts.items() if not key.startswith("published_")}
    published = {key: n for key, n in adapter.expected().items() if key in counts}
    unanswered = _unanswered(adapter, contents)
    missing = [
        sentence for files in contents.splits().values() for sentence in adapter.misplaced(files)
    ]
    report = partial(DataReport, name, counts, published, unanswered=unanswered)
    if missing:
        return report(missing)
    examined, broken = _decoded(adapter, contents, full)
    if broken:
        return report(corrupt=broken, examined=examined)
    data = _listed(adapter, contents)
    if not data.relevance.relevant.counts().any():
        rates = speeds(data.gallery) if len(data.gallery) else {}
        return report(examined=examined, rates=rates)
    draw_sheet(data, sheet)
    return report(examined=examined, rates=speeds(data.gallery), sheet=sheet)


def refuse_own_file(adapter: DatasetAdapter, output: Path) -> None:
    """Raise BenchError for an output that would replace a file of the dataset."""
    if not isinstance(adapter, FileDataset) or not output.exists():
        return
    place = output.resolve()
    indexed = [path.resolve() for path in adapter.index_files()]
    if place in indexed or place.is_relative_to(adapter.root.resolve()):
        raise BenchError(f"{output} is a file of the dataset; write somewhere else")


def _unanswered(adapter: FileDataset, contents: Contents) -> list[str]:
    try:
        adapter.refuse_unanswered(contents)
    except BenchError as error:
        return [str(error)]
    return []


def _decoded(adapter: FileDataset, contents: Contents, full: bool) -> tuple[int, list[str]]:
    """Decode a sample of every split, or all of it; return how many, and the corrupt files."""
    generator = np.random.default_rng(0)
    examined, broken = 0, []
    for files in contents.splits().values():
        rows = np.arange(len(files))
        if not full and len(rows) > SAMPLE:
            rows = np.sort(generator.choice(rows, SAMPLE, replace=False))
        examined += len(rows)
        source = adapter.source(files, TILE)
        broken += [_fault(source, row) for row in corrupt(source, rows)]
    return examined, broken


def _fault(source: FileImages, row: int) -> str:
    """State what is wrong with a corrupt image."""
    try:
        source.decode(row)
    except CorruptImageError as error:
        return str(error)
    return f"{source.paths[row]} can be decoded now; its file changes"


def _listed(adapter: FileDataset, contents: Contents) -> RetrievalData:
    """Open what was listed at the size of a tile, without checking it again."""
    sets = {
        split: ImageSet(adapter.source(files, TILE), files.labels, tuple(files.ids or files.paths))
        for split, files in contents.splits().items()
    }
    query = sets.get("query", sets["gallery"])
    return RetrievalData(sets["train"], query, sets["gallery"], contents.relevance)


def speeds(images: ImageSet, recipe: Recipe | None = None) -> dict[str, float]:
    """Measure images/s of reading at the size of `images`, and of augmentation: what limits a run.

    The speed of a model is measured by `plan`.
    """
    rows = np.arange(min(len(images), SAMPLE))
    started = time.perf_counter()
    pixels = images.images.read(rows)
    read = time.perf_counter()
    recipe = recipe or Recipe(image_size=pixels.shape[-1])
    augment(pixels, recipe, torch.Generator().manual_seed(0))
    augmented = time.perf_counter()
    return {
        "decode and resize": len(rows) / (read - started),
        "augment": len(rows) / (augmented - read),
    }


def draw_sheet(data: RetrievalData, path: Path) -> None:
    """Save a page of queries, each followed by right answers, at `path`."""
    answered = np.flatnonzero(data.relevance.relevant.counts() > 0)
    chosen = answered[np.linspace(0, len(answered) - 1, min(ROWS, len(answered))).astype(int)]
    page = np.full((3, len(chosen) * TILE, COLUMNS * TILE + TILE // 8), 255, np.uint8)
    for line, query in enumerate(chosen.tolist()):
        rows = data.relevance.relevant[query][: COLUMNS - 1]
        top = slice(line * TILE, (line + 1) * TILE)
        page[:, top, :TILE] = _tiles(data.query, np.array([query]))[0]
        for place, tile in enumerate(_tiles(data.gallery, rows), start=1):
            left = place * TILE + TILE // 8  # a gap sets the query apart
            page[:, top, left : left + TILE] = tile
    with temporary(path) as file:
        Image.fromarray(page.transpose(1, 2, 0)).save(file, format="PNG")


def _tiles(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read images as tiles [B, 3, T, T]."""
    tiles: NDArray[np.uint8] = images.images.read(rows).numpy()
    return tiles
