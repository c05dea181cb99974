"""What lies among images and is none: counted, named or skipped, never passed over in silence."""

import os
import shutil

import numpy as np
import pytest
import torch

from bench.authoring.data_check import check
from bench.data import decode
from bench.data.file_dataset import passed_over
from bench.data.tables import read_csv
from bench.errors import BenchError
from bench.plugins import registry
from tests.datasets import layouts


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    layouts.folder_classes(folder)
    return folder


def load(folder, tmp_path, **options):
    adapter = registry.make_dataset(f"folder_classes:{folder}", options)
    adapter.revision()
    return adapter.load(16, tmp_path / "cache")


def first_class(folder):
    return next(path for path in sorted((folder / "train").iterdir()) if path.is_dir())


def test_what_is_passed_over_is_counted_by_kind(images, tmp_path):
    before = load(images, tmp_path).counts
    here = first_class(images)
    for name in ("a.heic", "b.HEIC", "c.txt", "README", ".hidden"):
        (here / name).touch()
    (here / "nested.png").mkdir()
    (here.parent / "empty").mkdir()
    (here.parent / "beside.png").touch()
    found = {"beside": 1, "empty": 1, "heic": 2, "nested": 1, "no_suffix": 1, "txt": 1}
    assert passed_over(here.parent) == found
    counts = load(images, tmp_path).counts
    assert {
        k.removeprefix("passed_over_"): v for k, v in counts.items() if k not in before
    } == found
    assert {name: counts[name] for name in before} == before


def test_a_link_to_nothing_is_named_and_may_be_skipped(images, tmp_path):
    before = load(images, tmp_path).counts
    (first_class(images) / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BenchError, match=r"gone.png is not there; expected an image file"):
        load(images, tmp_path)
    skipped = load(images, tmp_path, skip_corrupt=True).counts
    assert skipped["corrupt_skipped"] == 1
    assert skipped["train_images"] == before["train_images"]


def test_a_link_in_a_circle_is_named_and_may_be_skipped(images, tmp_path):
    for name in ("gone.png", "class"):
        place = first_class(images).parent / name if name == "class" else first_class(images) / name
        place.symlink_to(place.name)
    with pytest.raises(BenchError, match=r"gone.png is not there; expected an image file"):
        load(images, tmp_path)
    counts = load(images, tmp_path, skip_corrupt=True).counts
    assert (counts["corrupt_skipped"], counts["passed_over_beside"]) == (1, 1)


LISTS = {
    "cub": ["images.txt", "image_class_labels.txt"],
    "gldv2": ["train_clean.csv", "index.csv", "retrieval_solution_v2.1.csv"],
    "inshop": ["list_eval_partition.txt"],
    "sop": ["Ebay_train.txt", "Ebay_test.txt"],
    "csv": ["table.csv"],
}


@pytest.mark.parametrize(("name", "file"), [(name, f) for name in LISTS for f in LISTS[name]])
def test_an_image_that_a_list_has_twice_is_refused(name, file, tmp_path):
    root = tmp_path / "data"
    getattr(layouts, name)(root)
    (path,) = root.rglob(file)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]) + "\n")
    source = f"csv:{path}" if name == "csv" else name
    with pytest.raises(BenchError, match=r"twice|repeat|expected"):
        registry.make_dataset(source, {"root": str(root)}).load(16, tmp_path / "cache")


@pytest.mark.parametrize("linked", ["folder", "file"])
@pytest.mark.parametrize("packed", [False, True])
def test_links_out_of_the_folder_are_read_where_a_setting_allows_them(
    linked, packed, images, tmp_path, monkeypatch
):
    expected = load(images, tmp_path / "before")
    rows = np.arange(len(expected.train))
    pixels = expected.train.images.read(rows)
    monkeypatch.setattr(decode, "_FOLDERS", {})  # a process looks at each folder once
    here, elsewhere = first_class(images), tmp_path / "elsewhere"
    moved = here if linked == "folder" else next(here.iterdir())
    shutil.move(moved, elsewhere)
    moved.symlink_to(elsewhere)
    with pytest.raises(BenchError, match=r"leads out of .*follow_links = true"):
        load(images, tmp_path / "refused", packed=packed)
    found = load(images, tmp_path, packed=packed, follow_links=True)
    assert torch.equal(found.train.images.read(rows), pixels)
    assert found.counts == expected.counts
    adapter = registry.make_dataset(f"folder_classes:{images}", {"follow_links": True})
    told = check(adapter, "mine", tmp_path / "cache", tmp_path / "sheet.png")
    assert not told.missing


def test_a_file_name_that_no_record_can_hold_is_refused_before_training(images, tmp_path):
    image = next(first_class(images).iterdir())
    os.rename(image, os.path.join(os.fsencode(image.parent), b"caf\xe9.png"))
    with pytest.raises(BenchError, match=r"caf\\xe9.png' is no UTF-8.*rename it"):
        load(images, tmp_path)


@pytest.mark.parametrize("row", ["a/1.jpg,c0 ", " a/1.jpg,c0", "a/1.jpg,\u00a0c0", "a/1.jpg,c0\t"])
def test_blanks_around_a_name_are_refused_with_their_line(row, tmp_path):
    (tmp_path / "t.csv").write_text(f"path,label\nb.jpg,c 0\n{row}\n", encoding="utf-8")
    with pytest.raises(BenchError, match="line 3: .*blanks around it"):
        read_csv(tmp_path / "t.csv", ["path", "label"])
