"""What a query has in common with others: the unit that statistics sample, from every adapter."""

from collections import defaultdict

import numpy as np
import pytest

from bench.data.groups import sharing_answers
from bench.data.splits import validation_split
from bench.plugins.registry import discover, make_dataset
from bench.protocol import RetrievalData
from bench.relevance import Ragged
from tests.datasets import layouts

FAKE = {"options": {"size": 40, "image_size": (3, 8, 8), "num_classes": 4}}
# How each data set is opened in miniature, and the groups of its queries.
CASES = {
    "cub": (layouts.cub, {}, {"101", "102", "200"}),
    "sop": (layouts.sop, {}, {"11319", "11320", "11321"}),
    "inshop": (layouts.inshop, {}, {"id_00000004", "id_00000005"}),
    "market1501": (layouts.market1501, {}, {"11", "12"}),
    "gldv2": (layouts.gldv2, {}, {layouts.landmark("test", number) for number in (0, 1, 4)}),
    "roxford5k": (
        lambda root: layouts.revisited(root, "roxford5k"),
        {"train": "synthetic"},
        {f"query_{number:06d}" for number in range(3)},
    ),
    "rparis6k": (
        lambda root: layouts.revisited(root, "rparis6k"),
        {"train": "synthetic"},
        {f"query_{number:06d}" for number in range(3)},
    ),
    "folder": (layouts.folder, {}, 4),
    "folder_classes": (layouts.folder_classes, {}, {f"n{kind:08d}" for kind in range(4)}),
    "csv": (layouts.csv, {}, 4),
    "items": (layouts.items, {}, 4),
    "torchvision": (lambda root: None, FAKE, {"1", "3"}),
    "synthetic": (lambda root: None, {"classes": 8}, {f"class-{kind}" for kind in range(4, 8)}),
    "icons": (lambda root: None, {}, 245),
}
SOURCES = {
    "folder": "{}",
    "folder_classes": "{}",
    "csv": "{}/table.csv",
    "items": "{}/items.csv",
    "torchvision": "FakeData",
}


def load(name, tmp_path) -> RetrievalData:
    layout, options, _ = CASES[name]
    (tmp_path / "data").mkdir()
    layout(tmp_path / "data")
    if name in SOURCES:
        place = f"{name}:{SOURCES[name].format(tmp_path / 'data')}"
    else:
        place = name
        has_root = "root" in type(make_dataset(name)).Config.model_fields
        options = {**options, "root": tmp_path / "data"} if has_root else options
    return make_dataset(place, options).load(8, tmp_path / "cache")


def test_every_adapter_is_tried():
    assert set(CASES) == set(discover("datasets"))


@pytest.mark.parametrize("name", CASES)
def test_every_query_has_a_group_and_those_that_share_answers_share_it(name, tmp_path):
    data, expected = load(name, tmp_path), CASES[name][2]
    assert data.groups is not None
    assert len(data.groups) == len(data.query)
    found = set(data.groups)
    assert (len(found) if isinstance(expected, int) else found) == expected
    groups_of_answer = defaultdict(set)
    for group, rows in zip(data.groups, data.relevance.relevant, strict=True):
        for row in rows.tolist():
            groups_of_answer[row].add(group)
    assert max(map(len, groups_of_answer.values())) == 1
    answered = {query for query, rows in enumerate(data.relevance.relevant) if len(rows)}
    alike = defaultdict(set)
    for query in answered:
        alike[data.groups[query]].add(data.query.labels[query])
    assert max(map(len, alike.values())) == 1


@pytest.mark.parametrize("name", ["folder", "synthetic"])
def test_the_validation_split_has_groups_of_its_own(name, tmp_path):
    data = load(name, tmp_path)
    carved = validation_split(data)
    assert carved.groups is not None
    held = set(carved.groups)
    label_of = dict(zip(data.train.ids, data.train.labels.tolist(), strict=True))
    assert [str(label_of[query]) for query in carved.query.ids] == list(carved.groups)
    assert len(held) == len(np.unique(data.train.labels)) // 2


def test_skipped_queries_take_their_groups_with_them(tmp_path):
    data = load("inshop", tmp_path)
    (path,) = (tmp_path / "data").rglob(data.query.ids[0])
    path.write_bytes(b"no image")
    options = {"root": tmp_path / "data", "skip_corrupt": True}
    assert make_dataset("inshop", options).load(8, tmp_path / "cache").groups == ("id_00000005",)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_a_landmark_is_one_group_at_every_difficulty(tmp_path, difficulty):
    """The second query's hard answer is the first one's easy one; the third shares junk alone."""
    import pickle

    truth = layouts.revisited(tmp_path / "data", "roxford5k")
    truth["gnd"][1]["hard"].append(0)
    truth["gnd"][2]["junk"].append(1)
    (tmp_path / "data" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth))
    options = {"root": tmp_path / "data", "train": "synthetic", "difficulty": difficulty}
    data = make_dataset("roxford5k", options).load(8, tmp_path / "cache")
    assert data.groups == ("query_000000", "query_000000", "query_000002")


def test_answers_link_queries_through_others():
    right = Ragged.from_lists([[7, 3], [], [3, 900], [5], [900], []])
    assert sharing_answers(right, list("abcdef")) == list("abadaf")
    assert sharing_answers(Ragged.from_lists([[], []]), ["x", "y"]) == ["x", "y"]


def test_another_number_of_groups_than_queries_is_refused(tmp_path):
    data = make_dataset("synthetic", {"classes": 4}).load(8, tmp_path)
    with pytest.raises(ValueError, match="1 groups for 8 queries; name one for each query"):
        RetrievalData(data.train, data.query, data.gallery, data.relevance, groups=("one",))
