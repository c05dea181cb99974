from pathlib import Path

import torch

from bench.registry import make_dataset
from bench.validation import carve


def test_the_validation_split_uses_training_classes_alone(tmp_path: Path):
    data = make_dataset("synthetic", {"classes": 12, "images_per_class": 3}).load(8, tmp_path)
    carved = carve(data)
    known = set(data.train.ids)
    assert set(carved.train.ids) | set(carved.gallery.ids) == known
    assert not set(carved.train.ids) & set(carved.gallery.ids)
    classes = [{name.split("/")[0] for name in part.ids} for part in (carved.train, carved.gallery)]
    assert not classes[0] & classes[1]
    assert carved.query is carved.gallery
    row = carved.gallery.ids.index("class-" + carved.gallery.ids[0].split("-")[1])
    original = data.train.ids.index(carved.gallery.ids[row])
    assert torch.equal(carved.gallery.images.read([row]), data.train.images.read([original]))
    for query, rows in enumerate(carved.relevance.relevant):
        label = carved.gallery.labels[query]
        expected = [r for r, other in enumerate(carved.gallery.labels) if other == label]
        assert rows.tolist() == [r for r in expected if r != query]
