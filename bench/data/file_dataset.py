"""Base of the adapters whose images lie in files: an adapter lists them, the rest is shared here.

An adapter says in `contents` which files train, ask and are searched, and which answer is right.
Checking the files, skipping corrupt ones, decoding and packing work the same for all of them.
"""

from __future__ import annotations

import inspect
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.data import decode, images, queries, splits, tables
from bench.data.decode import CorruptImageError, Fit, inside
from bench.data.images import FileImages, PackedWhenRead, blocks
from bench.data.queries import judge
from bench.data.splits import Labels, numbered
from bench.errors import BenchError
from bench.plugins import sources
from bench.protocol import DatasetAdapter, Images, ImageSet, RetrievalData
from bench.relevance import Ragged, Relevance
from bench.settings import Settings
from bench.storage.digest import digest, file_digest, source_digest
from bench.storage.manifest import stage_metadata
from bench.storage.store import Store

ROOTS = "BENCH_DATA"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHECKED_SIZE = 32  # pixels to which an image is decoded when it is only to be seen to be intact


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
        """State where a row is listed, as the end of a sentence."""
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
    """What a dataset holds, before any image is opened; `query` may be `gallery` itself.

    `groups` names the group of each query [Q], as in `RetrievalData`; None: each is its own.
    """

    train: Files
    query: Files
    gallery: Files
    relevance: Relevance
    counts: dict[str, int] = field(default_factory=dict)
    groups: Sequence[str] | None = None

    @classmethod
    def searched(
        cls,
        train: Files,
        others: Files,
        groups: Sequence[str],
        query: Labels,
        gallery: Labels,
        cameras: Labels | None = None,
    ) -> Contents:
        """Ask with some rows of `others` [N] and search some, which `judge` says to be answers.

        `groups` [N] and `cameras` [N] belong to the rows of `others`.
        """
        found = others.keep(gallery)
        asking = found if np.array_equal(query, gallery) else others.keep(query)
        relevance = judge(others.labels, query, gallery, cameras)
        return cls(train, asking, found, relevance, groups=[groups[row] for row in query])

    def splits(self) -> dict[str, Files]:
        """The distinct splits, by name."""
        query = {} if self.query is self.gallery else {"query": self.query}
        return {"train": self.train, **query, "gallery": self.gallery}


class FileDataset(DatasetAdapter):
    """Base of adapters that list image files below one root folder.

    `published` holds the counts that the dataset's authors give; a difference is reported in the
    counts of what was loaded, never hidden. `metric` is that by which rankings are judged.
    """

    class Config(Settings):
        root: Path | None = Field(None, description=f"folder; default ${ROOTS}/<name>")
        fit: Fit = Field("stretch", description="how an image becomes square")
        packed: bool = Field(False, description="decode every image once, into one mapped file")
        skip_corrupt: bool = Field(False, description="leave out and count corrupt images")
        follow_links: bool = Field(
            False, description="read images that links lead to outside of the folder"
        )
        allow_unanswered: bool = Field(
            False, description="accept queries without a right answer; metrics skip them"
        )

    unkeyed: ClassVar[frozenset[str]] = frozenset({"root", "packed"})
    published: ClassVar[dict[str, int]] = {}
    metric: ClassVar[str] = "AP"

    @abstractmethod
    def contents(self) -> Contents:
        """List files and right answers; raises BenchError naming file, line and expectation."""

    def index_files(self) -> Sequence[Path]:
        """Files whose bytes decide `contents`; they must be there."""
        return ()

    def listed(self) -> Iterable[os.DirEntry[str]]:
        """Files that decide `contents` by being there, where no index names them."""
        return ()

    def passed_over(self) -> dict[str, int]:
        """Count by kind what lies among the images and is not used, where no index names them."""
        return {}

    @property
    def name(self) -> str:
        """Name of the dataset: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def root(self) -> Path:
        """Folder of the dataset; raises BenchError when it is not known or not there."""
        if self.config.root is None and ROOTS not in os.environ:
            raise BenchError(
                f"dataset '{self.name}': no folder given; pass --set {self.name}.root=PATH, or set "
                f"{ROOTS} so that ${ROOTS}/{self.name} exists"
            )
        return existing_folder(self.config.root or Path(os.environ[ROOTS]) / self.name)

    def revision(self) -> str:
        """Hash the options and the content, without opening an image."""
        options = self.config.model_dump(mode="json", exclude=set(self.unkeyed))
        return digest([source_digest(self._sources()), options, self.fingerprint()])

    def fingerprint(self) -> str:
        """Hash what decides the content, without opening an image."""
        indexed = [file_digest(path) for path in self.index_files()]
        return digest([indexed, listing_digest(self.root, self.listed())])

    def load(self, image_size: int, cache: Path) -> RetrievalData:
        """List, check and open the images; see `DatasetAdapter.load`."""
        contents = self.contents()
        passed = {f"passed_over_{kind}": count for kind, count in self.passed_over().items()}
        counts = {**contents.counts, **passed}
        self.refuse_repeated(contents)
        self.refuse_unanswered(contents)
        corrupt = self._checked(contents, cache)
        if any(corrupt.values()):
            contents = without(contents, corrupt)
            counts["corrupt_skipped"] = sum(map(len, corrupt.values()))
        sets = {
            split: self.image_set(files, image_size, cache / "packed" / f"{split}-{image_size}")
            for split, files in contents.splits().items()
        }
        return RetrievalData(
            sets["train"],
            sets.get("query", sets["gallery"]),
            sets["gallery"],
            contents.relevance,
            self.metric,
            {**counts, **self.compared(contents)},
            None if contents.groups is None else tuple(contents.groups),
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
            "groups": len(contents.query if contents.groups is None else set(contents.groups)),
            "unanswered_queries": int((contents.relevance.relevant.counts() == 0).sum()),
        }
        differing = {
            f"published_{key}": count
            for key, count in self.expected().items()
            if found[key] != count
        }
        return {**found, **differing}

    def image_set(self, files: Files, size: int, folder: Path) -> ImageSet:
        """Open a split's images, packed below `folder` where the settings ask for it."""
        source: Images = self.source(files, size)
        if self.config.packed and len(files):
            source = PackedWhenRead(
                source, size, folder.with_name(f"{folder.name}-{self.revision()}")
            )
        return ImageSet(source, numbered(files.labels), tuple(files.ids or files.paths))

    def source(self, files: Files, size: int) -> FileImages:
        """Open a split's images at `size` × `size` pixels."""
        config = self.config
        return FileImages(
            self.root,
            files.paths,
            size,
            config.fit,
            files.boxes,
            files.origin,
            config.follow_links,
        )

    def refuse_repeated(self, contents: Contents) -> None:
        """Raise BenchError for an image that a split has twice: it would answer for itself."""
        for split, files in contents.splits().items():
            seen = set[str]()
            for row in range(len(files)):
                name = files.name(row)
                if name in seen:
                    raise BenchError(
                        f"{self.name}: '{name}' is there twice in the {split} split"
                        f"{files.origin(row)}; expected each image once"
                    )
                seen.add(name)

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

    def misplaced(self, files: Files) -> Iterable[str]:
        """Yield a sentence for every file that is not there or that leads out of the folder."""
        for row in range(len(files)):
            try:
                inside(self.root, files.paths[row], self.config.follow_links)
            except BenchError as error:
                yield f"{error}{files.origin(row)}"

    def _checked(self, contents: Contents, cache: Path) -> dict[str, list[int]]:
        """Rows of each split to skip; once per revision it is checked that every file is there."""
        if not self.has_images:
            return {}

        def check(folder: Path) -> dict[str, Any]:
            return {split: self._check(files) for split, files in contents.splits().items()}

        return stage_metadata(Store(cache).ensure("checked", self.revision(), check))

    def _check(self, files: Files) -> list[int]:
        for row in range(len(files)):
            if not files.name(row).isprintable():
                refuse_unwritable(files.name(row))
        skipped = set[int]()
        if self.config.skip_corrupt:
            rows = range(len(files))
            skipped = {row for row in rows if not (self.root / files.paths[row]).exists()}
        there = np.setdiff1d(np.arange(len(files)), list(skipped))
        for sentence in self.misplaced(files.keep(there)):
            raise BenchError(sentence)
        if self.config.skip_corrupt:
            skipped |= set(corrupt(self.source(files, CHECKED_SIZE), there))
        return sorted(skipped)

    def _sources(self) -> list[Path]:
        """Source files that decide the content: the adapter's, and those that list and decode."""
        own = sources.module_sources(Path(inspect.getfile(type(self))), type(self).__module__)
        shared = (__file__, decode.__file__, images.__file__, queries.__file__, tables.__file__)
        return sorted({*own, *map(Path, shared), Path(splits.__file__)})


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
        if _is_folder(entry) and not entry.name.startswith(".")
    }
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise BenchError(f"{folder} holds no images; expected {folder}/<class>/<image>")
    return found


def image_files(folder: Path) -> list[os.DirEntry[str]]:
    """Image files in a folder, in alphabetical order; see `passed_over` for all others.

    A link to nothing is among them, so that it is told.
    """
    entries = os.scandir(existing_folder(folder, "a folder of images"))
    images = (entry for entry in entries if _kind(entry) is None)
    return sorted(images, key=lambda entry: entry.name)


def passed_over(folder: Path) -> dict[str, int]:
    """Count what lies in a folder of class folders and is no image of one, by kind.

    Kinds are a file's suffix, `nested` for a folder within a class folder, `beside` for a file that
    lies in no class folder, and `empty` for a class folder without images. Hidden files are left
    out.
    """
    found = Counter[str]()
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            found["beside"] += 1
            continue
        kinds = [_kind(each) for each in os.scandir(entry.path)]
        found.update(kind for kind in kinds if kind not in (None, "hidden"))
        found["empty"] += None not in kinds
    return {kind: count for kind, count in sorted(found.items()) if count}


def _kind(entry: os.DirEntry[str]) -> str | None:
    """State why an entry of a class folder is passed over; None for an image."""
    if entry.name.startswith("."):
        return "hidden"
    if _is_folder(entry):
        return "nested"
    suffix = Path(entry.name).suffix.lower()
    return None if suffix in SUFFIXES else suffix.removeprefix(".") or "no_suffix"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or leads to one; a link in a circle leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def refuse_unwritable(name: str) -> None:
    """Raise BenchError for a file name that is no UTF-8, which no record can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BenchError(
            f"the file name {os.fsencode(name)!r} is no UTF-8, which records need; rename it, for "
            "example with `convmv -f latin1 -t utf8 --notest -r FOLDER`"
        ) from error


def listing_digest(root: Path, entries: Iterable[os.DirEntry[str]]) -> str:
    """Hash paths below the root, sizes and times of change of files that no index lists."""
    lines = []
    for entry in entries:
        try:
            status = entry.stat()
            state = [status.st_size, status.st_mtime_ns]
        except OSError:  # a link to nothing, which is told when images are checked
            state = [0, 0]
        lines.append([os.path.relpath(entry.path, root), *state])
    return digest(lines)


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


# -------------------------------------------------------------------------------- parts of contents


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
        groups=None if contents.groups is None else [contents.groups[row] for row in query],
    )


def _restricted(
    part: Ragged, queries: NDArray[np.int64], gallery: NDArray[np.int64], size: int
) -> Ragged:
    """Keep some queries and some gallery rows, which are numbered anew."""
    place = np.full(size, -1)
    place[gallery] = np.arange(len(gallery))
    rows = (place[part[int(query)]] for query in queries)
    return Ragged.from_lists(found[found >= 0] for found in rows)
