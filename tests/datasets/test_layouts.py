"""Each dataset in miniature: who trains, who asks, who is searched, and which answer is right."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import BenchError
from bench.plugins.registry import make_dataset
from bench.storage.results import dataset_label
from tests.datasets import layouts


def load(name, tmp_path, size=8, **options):
    return make_dataset(name, options).load(size, tmp_path / "cache")


def named(data, part):
    """Right answers or junk as names: query → the names of gallery images."""
    ids = data.gallery.ids
    lists = getattr(data.relevance, part)
    return {
        query: [ids[row] for row in rows] for query, rows in zip(data.query.ids, lists, strict=True)
    }


def refusal(name, tmp_path, **options):
    with pytest.raises(BenchError) as caught:
        load(name, tmp_path, **options)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# ------------------------------------------------------------------------------------------ gldv2


def test_gldv2_asks_private_queries_of_the_whole_index(root, tmp_path):
    index = layouts.gldv2(root)
    data = load("gldv2", tmp_path, root=root)
    assert data.metric == "AP@100"
    asked = [layouts.landmark("test", number) for number in (0, 1, 4)]
    assert named(data, "relevant") == {asked[0]: index[:3], asked[1]: index[3:6], asked[2]: []}
    assert data.gallery.ids == tuple(index)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    first = data.train.ids[0]
    direct = Image.open(root / "train" / first[0] / first[1] / first[2] / f"{first}.jpg")
    seen = data.train.images.read([0])[0].float().mean((1, 2))
    expected = torch.tensor(np.asarray(direct)).float().mean((0, 1))
    torch.testing.assert_close(seen, expected, atol=4, rtol=0)
    counts = data.counts
    assert (counts["test_private"], counts["test_public"], counts["test_ignored"]) == (3, 1, 1)
    assert counts["unanswered_queries"] == 1
    assert counts["published_gallery"] == 761_757


def test_gldv2_validates_on_public_queries(root, tmp_path):
    index = layouts.gldv2(root)
    data = load("gldv2", tmp_path, root=root, queries="Public")
    assert named(data, "relevant") == {layouts.landmark("test", 2): index[6:9]}


def test_gldv2_names_what_is_wrong_by_file_and_line(root, tmp_path):
    layouts.gldv2(root)
    solution = root / "retrieval_solution_v2.1.csv"
    whole = solution.read_text()
    solution.write_text(whole.replace(layouts.landmark("index", 4), "0123456789abcdef"))
    assert "retrieval_solution_v2.1.csv line 3: '0123456789abcdef' is no id" in refusal(
        "gldv2", tmp_path, root=root
    )
    solution.write_text(whole.replace("Usage", "usage"))
    assert "has the columns id, images, usage; expected id, images, Usage" in refusal(
        "gldv2", tmp_path, root=root
    )
    solution.write_text(whole)
    name = layouts.landmark("train", 11)
    (root / "train" / name[0] / name[1] / name[2] / f"{name}.jpg").unlink()
    text = refusal("gldv2", tmp_path, root=root)
    assert f"{name}.jpg is not there" in text
    assert "train_clean.csv line 3" in text
    (root / "index.csv").unlink()
    assert "index.csv" in refusal("gldv2", tmp_path, root=root)


# -------------------------------------------------------------------------------------- revisited


@pytest.fixture
def landmarks(root, tmp_path):
    """A revisited dataset, and the images that train for it."""
    layouts.folder(tmp_path / "training")
    return layouts.revisited(root, "roxford5k"), f"folder:{tmp_path / 'training'}"


@pytest.mark.parametrize(
    ("difficulty", "right", "junk"),
    [
        ("easy", [[0], [4], []], [[1, 2, 3], [5, 6, 7], [9, 10, 11]]),
        ("medium", [[0, 1, 2], [4, 5, 6], [9, 10]], [[3], [7], [11]]),
        ("hard", [[1, 2], [5, 6], [9, 10]], [[0, 3], [4, 7], [11]]),
    ],
)
def test_revisited_difficulties(landmarks, root, tmp_path, difficulty, right, junk):
    _, train = landmarks
    data = load("roxford5k", tmp_path, root=root, train=train, difficulty=difficulty)
    assert data.metric == "AP-trapezoidal"
    assert [rows.tolist() for rows in data.relevance.relevant] == right
    assert [rows.tolist() for rows in data.relevance.junk] == junk
    assert data.train.ids[0].startswith("class ")


def test_revisited_queries_are_cropped_by_their_box(landmarks, root, tmp_path):
    _, train = landmarks
    data = load("roxford5k", tmp_path, size=20, root=root, train=train)
    cropped = Image.open(root / "jpg" / "query_000000.jpg").crop((3, 3, 30, 20))
    expected = np.asarray(cropped.resize((20, 20), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(
        data.query.images.read([0])[0].permute(1, 2, 0).numpy(), expected, atol=1
    )


@pytest.mark.parametrize("below", [".", "roxford5k"])
def test_revisited_distractors_join_the_gallery(root, tmp_path, below):
    layouts.folder(tmp_path / "training")
    layouts.revisited(root / below, "roxford5k")
    layouts.revisitop1m(root)
    train = f"folder:{tmp_path / 'training'}"
    data = load("roxford5k", tmp_path, root=root, train=train, distractors=True)
    assert len(data.gallery) == 12 + 2
    assert data.gallery.ids[-1] == "revisitop1m/jpg/01/0001.jpg"
    assert data.gallery.images.read([13]).shape == (1, 3, 8, 8)
    assert data.counts["published_gallery"] == 4_993 + 1_001_001


def test_revisited_results_depend_on_what_trains(landmarks, root, tmp_path):
    _, train = landmarks
    before = make_dataset("roxford5k", {"root": root, "train": train}).revision()
    layouts.picture(tmp_path / "training" / "class 0" / "more.png")
    assert make_dataset("roxford5k", {"root": root, "train": train}).revision() != before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda truth: truth.pop("imlist"), "does not say 'imlist', which is needed"),
        (lambda truth: truth["qimlist"].pop(), "qimlist has 2 entries but gnd 3"),
        (lambda truth: truth["gnd"][1].pop("junk"), "does not say 'gnd.1.junk', which is needed"),
        (
            lambda truth: truth["gnd"][1].update(hard=[12]),
            "gnd[1] names rows outside imlist",
        ),
        (lambda truth: truth["gnd"][1].update(hard=[-1]), "gnd.1.hard.0 = -1 is not valid"),
        (lambda truth: truth["gnd"][1].update(hard=[1.5]), "gnd.1.hard.0 = 1.5 is not valid"),
        (lambda truth: truth.update(imlist={"a": 1}), "imlist = {'a': 1} is not valid"),
        (lambda truth: truth["gnd"][2].update(bbx=[1, 2, 3]), "does not say 'gnd.2.bbx.3'"),
        (lambda truth: truth["gnd"][0].update(junk=[1]), "row 1 is both relevant and junk"),
        (lambda truth: truth["qimlist"].append(make_dataset), "is not allowed"),
    ],
)
def test_revisited_names_what_is_wrong(landmarks, root, tmp_path, change, sentence):
    import pickle

    truth, train = landmarks
    change(truth)
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth))
    text = refusal("roxford5k", tmp_path, root=root, train=train)
    assert sentence in text
    assert "gnd_roxford5k.pkl" in text


# ------------------------------------------------------------------------------------ market1501


def test_market1501_ignores_the_own_camera_and_people_without_a_number(root, tmp_path):
    layouts.market1501(root)
    data = load("market1501", tmp_path, root=root)
    folder = "bounding_box_test"
    first = "query/0011_c1s1_000001_00.jpg"
    assert named(data, "relevant")[first] == [
        f"{folder}/0011_c{camera}s1_000002_01.jpg" for camera in (2, 3)
    ]
    assert named(data, "junk")[first] == [f"{folder}/0011_c1s1_000002_01.jpg"]
    assert f"{folder}/0000_c1s1_000151_01.jpg" in data.gallery.ids
    assert not [name for name in data.gallery.ids if "/-1" in name]
    assert (data.counts["ignored_people"], data.counts["distractors"]) == (1, 1)
    layouts.picture(root / "query" / "someone.jpg")
    assert "someone.jpg is not named as Market-1501 names" in refusal(
        "market1501", tmp_path, root=root
    )


def test_a_query_without_an_answer_is_refused_unless_accepted(root, tmp_path):
    layouts.market1501(root)
    layouts.picture(root / "query" / "0099_c1s1_000001_00.jpg")
    text = refusal("market1501", tmp_path, root=root)
    assert "query 'query/0099_c1s1_000001_00.jpg' has no right answer" in text
    data = load("market1501", tmp_path, root=root, allow_unanswered=True)
    assert data.counts["unanswered_queries"] == 1


# ------------------------------------------------------------------------------- cub, sop, inshop


def test_cub_trains_on_the_first_hundred_classes(root, tmp_path):
    layouts.cub(root)
    data = load("cub", tmp_path, root=root)
    assert data.query is data.gallery
    assert {name[:3] for name in data.train.ids} == {"001", "002", "003", "004", "099", "100"}
    assert {name[:3] for name in data.gallery.ids} == {"101", "102", "200"}
    assert data.relevance.relevant[4].tolist() == [3, 5]
    assert data.relevance.junk[4].tolist() == [4]
    labels = root / "image_class_labels.txt"
    whole = labels.read_text()
    labels.write_text(whole.replace("5 2\n", ""))
    assert "images.txt line 5: image 5 has no class" in refusal("cub", tmp_path, root=root)
    labels.write_text(whole.replace("5 2\n", "5 two\n"))
    assert "image_class_labels.txt line 5: class_id is 'two'; expected a whole" in refusal(
        "cub", tmp_path, root=root
    )


def test_sop_skips_the_header_and_searches_the_test_split(root, tmp_path):
    layouts.sop(root)
    data = load("sop", tmp_path, root=root)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert data.gallery.ids[0] == "chair_final/11319_0.JPG"
    assert data.relevance.relevant[0].tolist() == [1, 2]
    assert data.counts["published_train_classes"] == 11_318
    (root / "chair_final" / "2_1.JPG").unlink()
    with pytest.raises(BenchError, match=r"2_1\.JPG is not there.*Ebay_train\.txt line 6"):
        data.train.images.read([4])


@pytest.mark.parametrize("folder", ["Img/", ""])
def test_inshop_takes_the_partition_as_given(root, tmp_path, folder):
    layouts.inshop(root, folder)
    data = load("inshop", tmp_path, root=root)
    assert [len(part) for part in (data.train, data.query, data.gallery)] == [12, 2, 9]
    assert [rows.tolist() for rows in data.relevance.relevant] == [[0, 1, 2], [3, 4, 5]]
    assert not len(data.relevance.junk.rows)
    path = root / "Eval" / "list_eval_partition.txt"
    path.write_text(path.read_text().replace("query", "test", 1))
    path.write_text(path.read_text().replace(" query", " querry", 1))
    assert "line 15: evaluation_status is 'querry'" in refusal("inshop", tmp_path, root=root)


# -------------------------------------------------------------------------------- the user's own


def test_folder_splits_by_class_and_passes_over_other_files(root, tmp_path):
    layouts.folder(root)
    data = load(f"folder:{root}", tmp_path)
    parts = (data.train, data.query, data.gallery)
    classes = [{name.split("/")[0] for name in part.ids} for part in parts]
    assert [len(part) for part in classes] == [4, 4, 4]
    assert not classes[0] & classes[1]
    assert classes[1] == classes[2]
    assert [len(part) for part in parts] == [12, 4, 8]
    others = {
        frozenset(load(f"folder:{root}", tmp_path, split_seed=seed).train.ids) for seed in range(4)
    }
    assert len(others) > 1


def test_folder_refuses_a_class_with_one_image_among_those_searched(root, tmp_path):
    layouts.folder(root)
    searched = load(f"folder:{root}", tmp_path).query.ids[0].split("/")[0]
    for number in (1, 2):
        (root / searched / f"image-{number}.png").unlink()
    text = refusal(f"folder:{root}", tmp_path)
    assert f"query '{searched}/image-0.png' has no right answer" in text
    assert "expected another image of its class" in text


def test_folder_says_what_it_needs(root, tmp_path):
    assert "dataset 'folder' needs a source" in refusal("folder", tmp_path)
    assert "holds no images; expected" in refusal(f"folder:{root}", tmp_path)
    assert "is not there" in refusal(f"folder:{root}/gone", tmp_path)
    layouts.folder(root, classes=3)
    assert "has 3 class folders" in refusal(f"folder:{root}", tmp_path)


def test_folder_classes_takes_the_splits_as_given(root, tmp_path):
    layouts.folder_classes(root)
    data = load(f"folder_classes:{root}", tmp_path)
    assert {name.split("/")[0] for name in data.train.ids} == {"train"}
    assert {name.split("/")[0] for name in (*data.query.ids, *data.gallery.ids)} == {"val"}
    assert (len(data.query), len(data.gallery)) == (4, 4)
    assert data.relevance.relevant[1].tolist() == [1]
    whole = load(f"folder_classes:{root}", tmp_path, queries="gallery")
    assert whole.query is whole.gallery
    assert whole.relevance.relevant[0].tolist() == [1]


def test_csv_splits_by_class_unless_it_says_how(root, tmp_path):
    data = load(f"csv:{layouts.csv(root)}", tmp_path)
    labels = [{name.split("-")[0] for name in part.ids} for part in (data.train, data.gallery)]
    assert not labels[0] & labels[1]
    assert [len(part) for part in labels] == [4, 4]


def test_csv_with_splits_and_cameras(root, tmp_path):
    rows = [
        *((f"t{number}.jpg", "a" if number < 2 else "b", "train", "1") for number in range(4)),
        ("q.jpg", "a", "query", "1"),
        ("same.jpg", "a", "gallery", "1"),
        ("other.jpg", "a", "gallery", "2"),
        ("both.jpg", "a", "test", "3"),
    ]
    table = layouts.csv(root, ("path", "label", "split", "camera"), rows)
    data = load(f"csv:{table}", tmp_path)
    assert named(data, "relevant") == {
        "q.jpg": ["other.jpg", "both.jpg"],
        "both.jpg": ["same.jpg", "other.jpg"],
    }
    assert named(data, "junk") == {"q.jpg": ["same.jpg"], "both.jpg": ["both.jpg"]}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("path,label", "file,label", "has the columns file, label; expected path, label"),
        ("photos/1-1.jpg", "photos/1-0.jpg", "line 6 repeats the path photos/1-0.jpg"),
        ("photos/1-1.jpg,kind 1", "photos/1-1.jpg,", "line 6 lacks a value"),
        ("photos/1-1.jpg", "../outside.jpg", "line 6"),
        ("photos/1-1.jpg", "photos/gone.jpg", "gone.jpg is not there"),
    ],
)
def test_csv_names_what_is_wrong(root, tmp_path, old, new, sentence):
    layouts.picture(tmp_path / "outside.jpg")
    table = layouts.csv(root)
    table.write_text(table.read_text().replace(old, new, 1))
    text = refusal(f"csv:{table}", tmp_path)
    assert sentence in text
    assert "table.csv" in text


# ------------------------------------------------------------------------------------ torchvision


def test_torchvision_splits_classes_where_the_dataset_has_no_splits(tmp_path):
    options = {"options": {"size": 40, "image_size": (3, 8, 8), "num_classes": 4}}
    data = make_dataset("torchvision:FakeData", options).load(8, tmp_path)
    assert len(data.train) + len(data.query) + len(data.gallery) == 40
    assert set(data.train.labels.tolist()) == {0, 1}


def idx(path, array):
    """Write an array in the format of MNIST."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def test_torchvision_uses_the_splits_of_the_dataset(tmp_path):
    raw = tmp_path / "downloads" / "FashionMNIST" / "raw"
    for split, count in (("train", 6), ("t10k", 4)):
        levels = np.arange(count, dtype=np.uint8)
        pixels = np.broadcast_to(levels[:, None, None], (count, 28, 28)).copy()
        idx(raw / f"{split}-images-idx3-ubyte", pixels)
        idx(raw / f"{split}-labels-idx1-ubyte", (levels % 2).astype(np.uint8))
    data = load("torchvision:FashionMNIST", tmp_path, root=tmp_path / "downloads")
    assert (len(data.train), len(data.query), len(data.gallery)) == (6, 2, 2)
    assert {*data.query.ids, *data.gallery.ids} == {f"test/{number}" for number in range(4)}
    for part in (data.query, data.gallery):
        for row, name in enumerate(part.ids):
            shown = int(name.removeprefix("test/"))
            assert part.images.read([row])[0].unique().tolist() == [shown]
    assert [rows.tolist() for rows in data.relevance.relevant] == [[0], [1]]


def test_torchvision_says_what_it_cannot_do(tmp_path, monkeypatch):
    assert "unknown torchvision dataset 'CIFAR10O'; did you mean 'CIFAR10" in refusal(
        "torchvision:CIFAR10O", tmp_path
    )
    import torchvision

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.Omniglot, "__init__", offline)
    assert "could not open Omniglot (OSError: no network); it needs a network" in refusal(
        "torchvision:Omniglot", tmp_path
    )


# ---------------------------------------------------------------------- what all have in common


def test_a_revision_speaks_of_the_content_not_of_the_place(root, tmp_path):
    layouts.sop(root)
    layouts.sop(tmp_path / "elsewhere")
    revisions = [
        make_dataset("sop", {"root": place}).revision() for place in (root, tmp_path / "elsewhere")
    ]
    assert revisions[0] == revisions[1]
    assert make_dataset("sop", {"root": root, "packed": True}).revision() == revisions[0]
    assert make_dataset("sop", {"root": root, "fit": "crop"}).revision() != revisions[0]
    (root / "Ebay_test.txt").write_text((root / "Ebay_test.txt").read_text() + "\n")
    assert make_dataset("sop", {"root": root}).revision() != revisions[0]


def test_the_root_is_found_through_the_environment(root, tmp_path, monkeypatch):
    layouts.sop(root / "sop")
    monkeypatch.delenv("BENCH_DATA", raising=False)
    assert "--set sop.root=PATH" in refusal("sop", tmp_path)
    monkeypatch.setenv("BENCH_DATA", str(root))
    assert len(load("sop", tmp_path).train) == 12
    assert "cub is not there" in refusal("cub", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_corrupt_images_are_refused_or_skipped_and_counted(root, tmp_path, packed):
    layouts.folder(root)
    whole = load(f"folder:{root}", tmp_path)
    broken = [whole.train.ids[1], whole.gallery.ids[4]]
    for name in broken:
        (root / name).write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(BenchError, match="cannot be decoded"):
        load(f"folder:{root}", tmp_path, packed=packed).train.images.read([1])
    data = load(f"folder:{root}", tmp_path, packed=packed, skip_corrupt=True)
    assert data.counts["corrupt_skipped"] == 2
    for part, before, kept in (
        (data.train, whole.train, 11),
        (data.query, whole.query, 4),
        (data.gallery, whole.gallery, 7),
    ):
        assert part.ids == tuple(name for name in before.ids if name not in broken)
        assert len(part.images.read(range(len(part)))) == kept
    expected = {
        query: [name for name in names if name not in broken]
        for query, names in named(whole, "relevant").items()
        if query not in broken
    }
    assert named(data, "relevant") == expected


def test_labels_of_datasets_can_stand_in_paths_and_stay_apart():
    names = ["icons", "folder:photos", "folder:/a/photos", "folder:/b/photos", "csv:x/t.csv"]
    labels = [dataset_label(name) for name in names]
    assert labels[:2] == ["icons", "folder-photos"]
    assert len(set(labels)) == len(names)
    assert not [label for label in labels if "/" in label or ":" in label]


def test_a_source_where_none_is_taken_is_refused(tmp_path):
    assert "dataset 'sop' takes no source" in refusal("sop:/data", tmp_path)
