"""Market-1501 (Zheng et al., ICCV 2015): the same person in another camera.

In the root lie `bounding_box_train/`, `query/` and `bounding_box_test/`, whose files are named
`<person>_c<camera>s<sequence>_….jpg`. Person −1 is ignored, person 0 is a distractor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from bench.data.file_dataset import Contents, FileDataset, Files, image_files
from bench.data.queries import same_class_and_camera
from bench.data.splits import Labels
from bench.errors import BenchError
from bench.relevance import Relevance

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
NAME = re.compile(r"([-\d]+)_c(\d)")


class Market1501(FileDataset):
    """Gallery images of a query's person in the query's own camera are junk."""

    published: ClassVar[dict[str, int]] = {
        "train_images": 12_936,
        "train_classes": 751,
        "queries": 3_368,
        "gallery": 15_913,
    }

    def listed(self) -> Iterable[os.DirEntry[str]]:
        return (entry for folder in FOLDERS for entry in image_files(self.root / folder))

    def contents(self) -> Contents:
        listed = {folder: self._list(folder) for folder in FOLDERS}
        counts = {"ignored_people": sum(ignored for *_, ignored in listed.values())}
        train, query, gallery = (files for files, *_ in listed.values())
        (_, query_cameras, _), (_, gallery_cameras, _) = listed["query"], listed[FOLDERS[2]]
        counts["distractors"] = int((gallery.labels == 0).sum())
        junk = same_class_and_camera(query.labels, query_cameras, gallery.labels, gallery_cameras)
        relevance = Relevance.from_labels(query.labels, gallery.labels, junk)
        people = [str(person) for person in query.labels.tolist()]
        return Contents(train, query, gallery, relevance, counts=counts, groups=people)

    def _list(self, folder: str) -> tuple[Files, Labels, int]:
        """Files of a folder with their people as labels, their cameras, and how many it ignores."""
        paths, people, cameras, ignored = [], [], [], 0
        for entry in image_files(self.root / folder):
            found = NAME.match(entry.name)
            if found is None or not re.fullmatch(r"-1|\d+", found[1]):
                raise BenchError(
                    f"{entry.path} is not named as Market-1501 names its images; "
                    "expected <person>_c<camera>s<sequence>_<frame>.jpg"
                )
            if found[1] == "-1":
                ignored += 1
                continue
            paths.append(f"{folder}/{entry.name}")
            people.append(int(found[1]))
            cameras.append(int(found[2]))
        if not paths:
            raise BenchError(f"{self.root / folder} holds no images; expected those of Market-1501")
        return Files(paths, np.array(people)), np.array(cameras), ignored
