from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.data.splits import choose, held_out, validation_split
from bench.plugins.registry import make_dataset
from bench.suites.schema import Side

LABELS = np.repeat(np.arange(20), np.arange(1, 21))


@given(share=st.floats(0.01, 1), larger=st.floats(0.01, 1), seed=st.integers(0, 5))
@pytest.mark.parametrize("kind", ["classes", "images"])
def test_a_smaller_share_is_a_subset_of_a_larger_one(kind, share, larger, seed):
    small, large = sorted((share, larger))
    inner = choose(LABELS, Side(**{kind: small}), seed)
    outer = choose(LABELS, Side(**{kind: large}), seed)
    assert set(inner.rows) <= set(outer.rows)
    assert (inner.classes[inner.labels] == LABELS[inner.rows]).all()
    assert set(inner.labels) == set(range(len(inner.classes)))


def test_shares_are_of_classes_and_of_each_class_s_images():
    assert len(choose(LABELS, Side(classes=0.3), 0).classes) == 6
    counts = np.bincount(LABELS[choose(LABELS, Side(images=0.5), 0).rows])
    assert counts.tolist() == [max(1, round(0.5 * n)) for n in range(1, 21)]


def test_a_disjoint_side_meets_none_of_the_other_s_classes():
    old = choose(LABELS, Side(classes=0.3), 0)
    new = choose(LABELS, Side(disjoint=True), 0, without=old)
    assert not set(old.classes) & set(new.classes)
    assert len(old.classes) + len(new.classes) == 20


def test_the_validation_split_uses_training_classes_alone(tmp_path: Path):
    data = make_dataset("synthetic", {"classes": 12, "images_per_class": 3}).load(8, tmp_path)
    carved = validation_split(data)
    known = set(data.train.ids)
    assert {*carved.train.ids, *carved.query.ids, *carved.gallery.ids} == known
    assert not set(carved.query.ids) & set(carved.gallery.ids)
    assert not set(carved.train.ids) & set(carved.gallery.ids)
    classes = [{name.split("/")[0] for name in part.ids} for part in (carved.train, carved.gallery)]
    assert not classes[0] & classes[1]
    assert (len(carved.train), len(carved.query), len(carved.gallery)) == (9, 3, 6)
    for part in (carved.query, carved.gallery):
        for row, name in enumerate(part.ids):
            original = data.train.images.read([data.train.ids.index(name)])
            assert torch.equal(part.images.read([row]), original)
    for query, rows in zip(carved.query.ids, carved.relevance.relevant, strict=True):
        kind = query.split("/")[0]
        found = [row for row, name in enumerate(carved.gallery.ids) if name.split("/")[0] == kind]
        assert rows.tolist() == found


def test_the_classes_that_are_held_out_are_those_that_are_searched(tmp_path: Path):
    """With an odd number of classes, so that the two halves can be told apart."""
    data = make_dataset("synthetic", {"classes": 26, "images_per_class": 3}).load(8, tmp_path)
    held = held_out(data.train.labels)
    assert len(np.unique(data.train.labels[held])) == 6
    carved = validation_split(data)
    searched = {name for name, is_held in zip(data.train.ids, held, strict=True) if is_held}
    assert {*carved.query.ids, *carved.gallery.ids} == searched
    assert set(carved.train.ids) == set(data.train.ids) - searched
