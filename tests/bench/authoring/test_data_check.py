import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from bench.authoring.data_check import check, refuse_own_file
from bench.errors import BenchError
from bench.plugins.registry import make_dataset
from tests.command import here
from tests.datasets import layouts


def checked(name, tmp_path, full=False, **options):
    adapter = make_dataset(name, options)
    return check(adapter, name, tmp_path / "cache", tmp_path / "sheet.png", full)


def shown(report):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_a_complete_dataset_passes_and_is_shown(tmp_path):
    layouts.folder(tmp_path / "data")
    report = checked(f"folder:{tmp_path / 'data'}", tmp_path)
    assert report.passed
    assert report.counts["train_classes"] == 4
    assert report.examined == 24
    assert all(rate > 0 for rate in report.rates.values())
    text = shown(report)
    assert "train images" in text
    assert "contact sheet" in text
    page = np.asarray(Image.open(report.sheet))
    assert page.shape == (4 * 96, 8 * 96 + 12, 3)
    assert (page[:, 96 : 96 + 12] == 255).all()  # the gap between a query and its answers
    assert (page[:96, :96] != 255).any()
    assert (page[:96, 108:204] != 255).any()
    assert (page[:96, 108 + 2 * 96 :] == 255).all()  # each query has two right answers


def test_counts_are_compared_with_the_published_ones(tmp_path):
    layouts.sop(tmp_path)
    report = checked("sop", tmp_path, root=tmp_path)
    assert set(report.differing) == {"train_images", "train_classes", "queries", "gallery"}
    assert not report.passed
    assert "59,551" in shown(report)


def test_missing_files_are_listed_with_the_line_that_names_them(tmp_path):
    layouts.sop(tmp_path)
    for name in ("1_0.JPG", "11320_2.JPG"):
        (tmp_path / "chair_final" / name).unlink()
    report = checked("sop", tmp_path, root=tmp_path)
    assert [name for name in ("1_0.JPG", "11320_2.JPG") if name in shown(report)] != []
    assert len(report.missing) == 2
    assert "Ebay_test.txt line 7" in report.missing[1]


def test_full_finds_every_corrupt_file(tmp_path):
    layouts.folder(tmp_path / "data", classes=8, each=20)
    for name in ("class 0/image-3.png", "class 7/image-11.png"):
        (tmp_path / "data" / name).write_bytes(b"broken")
    sample = checked(f"folder:{tmp_path / 'data'}", tmp_path)
    assert sample.examined == 64 + 28 + 52
    report = checked(f"folder:{tmp_path / 'data'}", tmp_path, full=True)
    assert report.examined == 160
    first, second = sorted(report.corrupt)
    assert "class 0/image-3.png cannot be decoded (UnidentifiedImageError" in first
    assert "class 7/image-11.png cannot be decoded" in second
    assert not report.passed


def test_a_generated_dataset_can_be_looked_at_too(tmp_path):
    report = checked("synthetic", tmp_path, classes=8, images_per_class=3)
    assert report.passed
    assert report.sheet.is_file()


def test_what_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(BenchError, match=r"Ebay_train\.txt"):
        checked("sop", tmp_path, root=tmp_path)


def test_queries_without_an_answer_are_found_before_a_run(tmp_path):
    layouts.folder(tmp_path / "data", classes=4)
    for path in (tmp_path / "data").glob("class */image-[12].png"):
        path.unlink()
    name = f"folder:{tmp_path / 'data'}"
    report = checked(name, tmp_path)
    assert not report.passed
    assert "has no right answer in the gallery (2 such queries of 2)" in " ".join(
        shown(report).split()
    )


def test_the_command_lists_every_image(tmp_path):
    layouts.folder(tmp_path / "data")
    name = f"folder:{tmp_path / 'data'}"
    here("data", name, "--ids", tmp_path / "ids.csv", "--results", tmp_path / "results")
    table = pd.read_csv(tmp_path / "ids.csv")
    assert sorted(table["path"]) == sorted(
        str(path.relative_to(tmp_path / "data"))
        for path in (tmp_path / "data").glob("class */image-*.png")
    )


@pytest.mark.parametrize("name", ["table.csv", "images/0-0.jpg", "link.csv", "deep/../table.csv"])
def test_a_listing_never_replaces_a_file_of_the_dataset(name, tmp_path):
    layouts.csv(tmp_path)
    (table,) = tmp_path.rglob("*.csv")
    (tmp_path / "link.csv").symlink_to(table)
    (tmp_path / "deep").mkdir()
    place = {"table.csv": table, "images/0-0.jpg": next(tmp_path.rglob("*.jpg"))}
    adapter = make_dataset(f"csv:{table}")
    with pytest.raises(BenchError, match="is a file of the dataset"):
        refuse_own_file(adapter, place.get(name, tmp_path / name))
    refuse_own_file(adapter, tmp_path / "new.csv")
