"""Base of the adapters whose images lie in files: an adapter lists them, the rest is shared here.

An adapter says in `contents` which files train, ask and are searched, and which answer is right.
Checking the files, skipping corrupt ones, decoding and packing work the same for all of them.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench import decode, images, registry
from bench.decode import CorruptImageError, Fit, inside
from bench.errors import BenchError
from bench.images import FileImages, PackedWhenRead, blocks
from bench.protocol import DatasetAdapter, Images, ImageSet, RetrievalData
from bench.relevance import Ragged, Relevance
from bench.settings import Settings
from bench.store import Store, digest, facts, file_digest, source_digest

ROOTS = "BENCH_DATA"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHECKED_SIZE = 32  # pixels to which an image is decoded when it is only to be seen to be intact
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Files:
    """Image files of one split, given by paths below the root, with one class label [N] each.

    `ids` name them in records: their paths unless given. `boxes` [N, 4] are cut out of them.
    `source` is the index file and `lines` [N] the lines that list them.
    """

    paths: Sequence[str]
    labels: Labels
    ids: Sequence[str] | None = None
    boxes: NDArray[np.float64] | None = None
    source: Path | None = None
    lines: Labels | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """Name one image as records do."""
        return (self.ids or self.paths)[row]

    def origin(self, row: int) -> str:
        """Say where a row is listed, as the end of a sentence."""
        if self.source is None:
            return ""
        line = "" if self.lines is None else f" line {self.lines[row]}"
        return f" (listed in {self.source}{line})"

    def keep(self, rows: NDArray[np.int64]) -> Files:
        """Keep some rows, in the order given."""
        return replace(
            self,
            paths=[self.paths[row] for row in rows],
            labels=self.labels[rows],
            ids=None if self.ids is None else [self.ids[row] for row in rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            lines=None if self.lines is None else self.lines[rows],
        )


@dataclass(frozen=True)
class Contents:
    """What a dataset holds, before any image is opened; `query` may be `gallery` itself."""

    train: Files
    query: Files
    gallery: Files
    relevance: Relevance
    metric: str = "AP"
    counts: dict[str, int] = field(default_factory=dict)

    def splits(self) -> dict[str, Files]:
        """The distinct splits, by name."""
        query = {} if self.query is self.gallery else {"query": self.query}
        return {"train": self.train, **query, "gallery": self.gallery}


class FileDataset(DatasetAdapter):
    """Base of adapters that list image files below one root folder.

    `published` holds the counts that the dataset's authors give; a difference is reported in the
    counts of what was loaded, never hidden.
    """

    class Config(Settings):
        root: Path | None = Field(None, description=f"folder; default ${ROOTS}/<name>")
        fit: Fit = Field("stretch", description="how an image becomes square")
        packed: bool = Field(False, description="decode every image once, into one mapped file")
        skip_corrupt: bool = Field(False, description="leave out and count corrupt images")
        allow_unanswered: bool = Field(
            False, description="accept queries without a right answer; metrics skip them"
        )

    unkeyed: ClassVar[frozenset[str]] = frozenset({"root", "packed"})
    published: ClassVar[dict[str, int]] = {}

    @abstractmethod
    def contents(self) -> Contents:
        """List files and right answers; raises BenchError naming file, line and expectation."""

    def index_files(self) -> Sequence[Path]:
        """Files whose bytes decide `contents`; they must be there."""
        return ()

    def listed(self) -> Iterable[os.DirEntry[str]]:
        """Files that decide `contents` by being there, where no index names them."""
        return ()

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def root(self) -> Path:
        """Folder of the dataset; raises BenchError when it is not known or not there."""
        if self.config.root is None and ROOTS not in os.environ:
            raise BenchError(
                f"nobody says where {self.name} lies: give its folder with "
                f"--set {self.name}.root=PATH, or the folder of all datasets in ${ROOTS}"
            )
        return existing_folder(self.config.root or Path(os.environ[ROOTS]) / self.name)

    def revision(self) -> str:
        options = self.config.model_dump(mode="json", exclude=set(self.unkeyed))
        return digest([source_digest(self._sources()), options, self.fingerprint()])

    def fingerprint(self) -> str:
        """Hash what decides the content, without opening an image."""
        indexed = [file_digest(path) for path in self.index_files()]
        return digest([indexed, listing_digest(self.root, self.listed())])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        contents = self.contents()
        counts = dict(contents.counts)
        self.refuse_unanswered(contents)
        corrupt = self._checked(contents, cache)
        if any(corrupt.values()):
            contents = without(contents, corrupt)
            counts["corrupt_skipped"] = sum(map(len, corrupt.values()))
        sets = {
            split: self._image_set(files, image_size, cache / "packed" / f"{split}-{image_size}")
            for split, files in contents.splits().items()
        }
        return RetrievalData(
            sets["train"],
            sets.get("query", sets["gallery"]),
            sets["gallery"],
            contents.relevance,
            contents.metric,
            {**counts, **self.compared(contents)},
        )

    def expected(self) -> dict[str, int]:
        """Counts to compare with, under the present options."""
        return self.published

    def planned(self) -> dict[str, int]:
        """Published counts of all that a run reads, for planning one before the data are there."""
        return self.expected()

    def compared(self, contents: Contents) -> dict[str, int]:
        """Count what is there, and tell the published count wherever it differs."""
        found = {
            "train_images": len(contents.train),
            "train_classes": len(np.unique(contents.train.labels)),
            "queries": len(contents.query),
            "gallery": len(contents.gallery),
            "unanswered_queries": int((contents.relevance.relevant.counts() == 0).sum()),
        }
        differing = {
            f"published_{key}": count
            for key, count in self.expected().items()
            if found[key] != count
        }
        return {**found, **differing}

    def _image_set(self, files: Files, size: int, folder: Path) -> ImageSet:
        source: Images = self.source(files, size)
        if self.config.packed and len(files):
            source = PackedWhenRead(
                source, size, folder.with_name(f"{folder.name}-{self.revision()}")
            )
        return ImageSet(source, numbered(files.labels), tuple(files.ids or files.paths))

    def source(self, files: Files, size: int) -> FileImages:
        """Open a split's images at `size` × `size` pixels."""
        return FileImages(self.root, files.paths, size, self.config.fit, files.boxes, files.origin)

    def refuse_unanswered(self, contents: Contents) -> None:
        """Raise BenchError for queries without a right answer, unless some are accepted."""
        lonely = np.flatnonzero(contents.relevance.relevant.counts() == 0)
        if not len(lonely) or (self.config.allow_unanswered and len(lonely) < len(contents.query)):
            return
        row = int(lonely[0])
        raise BenchError(
            f"{self.name}: query '{contents.query.name(row)}'{contents.query.origin(row)} has no "
            f"right answer in the gallery ({len(lonely)} such queries of {len(contents.query)}); "
            "expected another image of its class; some such queries are accepted, and skipped, "
            f"with --set {self.name}.allow_unanswered=true"
        )

    def _checked(self, contents: Contents, cache: Path) -> dict[str, list[int]]:
        """Rows of each split to skip; once per revision it is checked that every file is there."""

        def check(folder: Path) -> dict[str, Any]:
            return {split: self._check(files) for split, files in contents.splits().items()}

        return facts(Store(cache).ensure("checked", self.revision(), check))

    def _check(self, files: Files) -> list[int]:
        for sentence in misplaced(self.root, files):
            raise BenchError(sentence)
        return list(corrupt(self.source(files, CHECKED_SIZE))) if self.config.skip_corrupt else []

    def _sources(self) -> list[Path]:
        """Source files that decide the content: the adapter's, this one and the decoder's."""
        own = registry.module_sources(Path(inspect.getfile(type(self))), type(self).__module__)
        return sorted(
            {*own, *(Path(each) for each in (__file__, decode.__file__, images.__file__))}
        )


# --------------------------------------------------------------------------------- files on disk


def existing_folder(folder: Path, what: str = "the folder of the dataset") -> Path:
    """Return a folder with `~` expanded; raises BenchError when it is not there."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise BenchError(f"{folder} is not there; expected {what}")
    return folder


def class_folders(folder: Path) -> dict[str, list[os.DirEntry[str]]]:
    """Image files of every class folder, by class, in alphabetical order.

    Raises BenchError when there is none.
    """
    entries = os.scandir(existing_folder(folder, "class folders"))
    found = {
        entry.name: image_files(Path(entry.path))
        for entry in sorted(entries, key=lambda entry: entry.name)
        if entry.is_dir() and not entry.name.startswith(".")
    }
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise BenchError(f"{folder} holds no images; expected {folder}/<class>/<image>")
    return found


def image_files(folder: Path) -> list[os.DirEntry[str]]:
    """Image files in a folder, in alphabetical order; hidden and other files are passed over."""
    found = [
        entry
        for entry in os.scandir(existing_folder(folder, "a folder of images"))
        if Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    ]
    return sorted(found, key=lambda entry: entry.name)


def listing_digest(root: Path, entries: Iterable[os.DirEntry[str]]) -> str:
    """Hash paths below the root, sizes and times of change of files that no index lists."""
    lines = []
    for entry in entries:
        status = entry.stat()
        lines.append([os.path.relpath(entry.path, root), status.st_size, status.st_mtime_ns])
    return digest(lines)


def misplaced(root: Path, files: Files) -> Iterable[str]:
    """Yield a sentence for every file that is not there or lies outside the root."""
    for row in range(len(files)):
        try:
            inside(root, files.paths[row])
        except BenchError as error:
            yield f"{error}{files.origin(row)}"


def corrupt(source: FileImages, rows: NDArray[np.int64] | None = None) -> Iterable[int]:
    """Yield those of the rows, all by default, whose files cannot be decoded."""
    rows = np.arange(len(source)) if rows is None else rows
    for block in blocks(len(rows), images.PACKED_AT_A_TIME):
        try:
            source.read(rows[block])
        except CorruptImageError:
            for row in rows[block].tolist():
                try:
                    source.decode(row)
                except CorruptImageError:
                    yield row


# ------------------------------------------------------------------------------ classes, relevance


def numbered(classes: Sequence[str] | Labels) -> Labels:
    """Number classes from 0 in ascending order of their names or numbers."""
    return np.unique(np.asarray(classes), return_inverse=True)[1].astype(np.int64)


def training_classes(labels: Sequence[str] | Labels, seed: int) -> NDArray[np.bool_]:
    """Choose the rows [N] of a random half of the classes, the same for every training seed."""

    def place(name: str) -> str:
        return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()

    classes, row_class = np.unique(np.asarray(labels), return_inverse=True)
    shuffled = sorted(range(len(classes)), key=lambda index: place(str(classes[index])))
    return np.isin(row_class, shuffled[: len(shuffled) // 2])


def same_class_and_camera(
    query_labels: Labels, query_cameras: Labels, gallery_labels: Labels, gallery_cameras: Labels
) -> list[NDArray[np.int64]]:
    """Rows of the gallery that show a query's class in the query's own camera, for each query."""
    cameras = 1 + int(max(query_cameras.max(initial=0), gallery_cameras.max(initial=0)))
    scene = gallery_labels * cameras + gallery_cameras
    order = np.argsort(scene, kind="stable")
    wanted = query_labels * cameras + query_cameras
    first, last = (np.searchsorted(scene[order], wanted, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(first, last, strict=True)]


def without(contents: Contents, dropped: dict[str, list[int]]) -> Contents:
    """Take rows out of every split, and out of the right answers."""

    def kept(files: Files, split: str) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(len(files)), dropped.get(split, []))

    train, gallery = kept(contents.train, "train"), kept(contents.gallery, "gallery")
    same = contents.query is contents.gallery
    query = gallery if same else kept(contents.query, "query")
    found = contents.gallery.keep(gallery)
    return replace(
        contents,
        train=contents.train.keep(train),
        query=found if same else contents.query.keep(query),
        gallery=found,
        relevance=Relevance(
            _restricted(contents.relevance.relevant, query, gallery, len(contents.gallery)),
            _restricted(contents.relevance.junk, query, gallery, len(contents.gallery)),
            len(gallery),
        ),
    )


def _restricted(
    part: Ragged, queries: NDArray[np.int64], gallery: NDArray[np.int64], size: int
) -> Ragged:
    """Keep some queries and some gallery rows, which are numbered anew."""
    place = np.full(size, -1)
    place[gallery] = np.arange(len(gallery))
    rows = (place[part[int(query)]] for query in queries)
    return Ragged.from_lists(found[found >= 0] for found in rows)
