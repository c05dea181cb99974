from pathlib import Path

import torch

from bench.data.splits import validation_split
from bench.plugins.registry import make_dataset


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
