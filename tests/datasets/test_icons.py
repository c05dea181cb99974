import os
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

from bench.errors import BenchError
from datasets import _icon_fonts, icons
from datasets._icon_fonts import FONTS, concept, draw
from datasets.icons import COMPARED_SIZE, NEAR, Icon, Icons

MEASURED = {
    "QtAwesome": "1.4.2",
    "tkinter-icons-bs": "1.1.1",
    "tkinter-icons-eva": "1.1.1",
    "tkinter-icons-fluent": "1.1.1",
    "tkinter-icons-gmi": "1.1.2",
    "tkinter-icons-ion": "1.1.1",
    "tkinter-icons-lucide": "1.1.1",
    "tkinter-icons-typicons": "1.1.1",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Icons().load(COMPARED_SIZE, tmp_path_factory.mktemp("icons"))


@pytest.fixture
def few_fonts(monkeypatch):
    """A smaller dataset, drawn in a fraction of the time."""
    few = [font for font in FONTS if font.family in ("codicon", "elusive", "eva", "typicons")]
    monkeypatch.setattr(icons, "FONTS", tuple(few))


def concepts(part):
    return [name.split("/")[0] for name in part.ids]


def grey(part):
    images = part.images.read(np.arange(len(part)))
    assert (images[:, 0] == images[:, 1]).all()
    assert (images[:, 0] == images[:, 2]).all()
    return images[:, 0].numpy()


def test_counts_are_those_that_were_measured(data):
    if any(version(wheel) != measured for wheel, measured in MEASURED.items()):
        pytest.skip("other versions of the icon fonts hold other icons")
    assert data.counts == {
        "candidates": 4684,
        "shared_between_concepts": 12,
        "near_duplicates": 164,
        "in_dropped_concepts": 16,
        "dropped_concepts": 4,
        "concepts": 489,
        "drawings": 4492,
        "families": 13,
        "train_images": 2308,
        "queries": 731,
        "gallery": 1453,
        "groups": 245,
    }
    assert [len(set(concepts(part))) for part in (data.train, data.gallery)] == [244, 245]


def test_counts_add_up(data):
    counts = data.counts
    dropped = ("shared_between_concepts", "near_duplicates", "in_dropped_concepts")
    kept = len(data.train) + len(data.query) + len(data.gallery)
    assert counts["candidates"] - sum(counts[rule] for rule in dropped) == kept
    assert counts["drawings"] == kept
    assert counts["concepts"] == len({*concepts(data.train), *concepts(data.gallery)})
    assert counts["groups"] == len(set(concepts(data.query))) == len(set(concepts(data.gallery)))


def test_ids_are_unique_and_labels_are_concepts(data):
    parts = (data.train, data.query, data.gallery)
    assert len({name for part in parts for name in part.ids}) == sum(map(len, parts))
    assert not set(concepts(data.train)) & set(concepts(data.gallery))
    for part in (data.train, data.gallery):
        pairs = set(zip(concepts(part), part.labels.tolist(), strict=True))
        assert sorted(label for _, label in pairs) == list(range(len(set(concepts(part)))))


def test_every_concept_is_drawn_by_enough_families(data):
    family = {font.name: font.family for font in FONTS}
    families = {}
    for name in (*data.train.ids, *data.query.ids, *data.gallery.ids):
        depicted, style, _ = name.split("/")
        families.setdefault(depicted, set()).add(family[style])
    assert min(map(len, families.values())) >= 4


def test_right_answers_are_the_drawings_of_the_concept_in_the_gallery(data):
    names, asked = np.array(concepts(data.gallery)), concepts(data.query)
    for query in range(0, len(asked), 17):
        others = np.flatnonzero(names == asked[query]).tolist()
        assert data.relevance.relevant[query].tolist() == others != []
        assert data.relevance.junk[query].tolist() == []


def test_about_a_third_of_each_concept_asks(data):
    asked, searched = Counter(concepts(data.query)), Counter(concepts(data.gallery))
    for name, count in asked.items():
        total = count + searched[name]
        assert count == max(1, int(total / 3 + 0.5))


def test_all_drawings_ask_and_are_searched_where_that_is_wanted(data, tmp_path):
    whole = Icons(Icons.Config(queries="gallery")).load(COMPARED_SIZE, tmp_path)
    assert whole.query is whole.gallery
    assert set(whole.gallery.ids) == {*data.query.ids, *data.gallery.ids}
    assert whole.relevance.junk[5].tolist() == [5]


def test_no_drawing_is_there_twice(data):
    drawings = np.concatenate([grey(data.train), grey(data.query), grey(data.gallery)])
    assert len({drawing.tobytes() for drawing in drawings}) == len(drawings)


def test_drawings_of_a_concept_differ(data):
    pixels = grey(data.gallery).astype(float)
    for label in range(0, data.gallery.labels.max() + 1, 5):
        rows = np.flatnonzero(data.gallery.labels == label)
        differences = np.abs(pixels[rows, None] - pixels[None, rows]).mean((2, 3))
        assert differences[~np.eye(len(rows), dtype=bool)].min() >= NEAR


def test_drawings_are_black_on_white_inside_a_margin(data):
    pixels = grey(data.train)
    edge = round(0.1 * COMPARED_SIZE)
    inner = pixels[:, edge:-edge, edge:-edge]
    assert (pixels.astype(int).sum((1, 2)) - inner.astype(int).sum((1, 2))).min() >= 250 * (
        COMPARED_SIZE**2 - inner[0].size
    )
    assert (inner.min((1, 2)) < 128).all()


def test_items_and_split_are_the_same_at_every_size(few_fonts, tmp_path):
    small, large = (Icons().load(size, tmp_path) for size in (2, 64))
    assert small.train.ids == large.train.ids
    assert small.gallery.ids == large.gallery.ids
    assert small.counts == large.counts
    assert small.train.images.read([0]).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_cache_is_drawn_anew(few_fonts, tmp_path, harm):
    first = Icons().load(24, tmp_path)
    (path,) = tmp_path.rglob("pixels.npy")
    if harm == "flip":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    elif harm == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    again = Icons().load(24, tmp_path)
    for before, after in ((first.train, again.train), (first.gallery, again.gallery)):
        np.testing.assert_array_equal(grey(before), grey(after))
        assert before.ids == after.ids


def test_a_whole_cache_is_not_drawn_again(few_fonts, tmp_path, monkeypatch):
    first = Icons().load(24, tmp_path)
    monkeypatch.setattr(icons, "draw", None)
    np.testing.assert_array_equal(grey(first.train), grey(Icons().load(24, tmp_path).train))


def test_revision_follows_configuration_fonts_and_renderer(monkeypatch):
    monkeypatch.setattr(_icon_fonts.IconFont, "load", None)  # it must not draw to know
    options = ({}, {"families": 5}, {"queries": 0.5})
    revisions = [Icons(Icons.Config(**option)).revision() for option in options]
    with monkeypatch.context() as patch:
        patch.setattr(icons, "renderer_version", lambda: "another")
        revisions.append(Icons().revision())
    with monkeypatch.context() as patch:
        patch.setattr(_icon_fonts.metadata, "version", lambda wheel: "99")
        revisions.append(Icons().revision())
    assert len(set(revisions)) == 5
    assert Icons().revision() == revisions[0]


@pytest.mark.parametrize(("added", "counts"), [("# changed", False), ("CHANGED = True", True)])
def test_revision_follows_what_the_source_does(monkeypatch, tmp_path, added, counts):
    before = Icons().revision()
    copy = tmp_path / "icons.py"
    with open(icons.__file__) as source:
        copy.write_text(f"{source.read()}\n{added}\n")
    monkeypatch.setattr(icons, "__file__", str(copy))
    assert (Icons().revision() != before) is counts


def test_a_missing_wheel_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(_icon_fonts, "find_spec", lambda package: None)
    with pytest.raises(BenchError, match="come from the wheel QtAwesome, which is not installed"):
        Icons().load(24, tmp_path)

    def nowhere(wheel):
        raise PackageNotFoundError(wheel)

    monkeypatch.setattr(_icon_fonts.metadata, "version", nowhere)
    with pytest.raises(BenchError, match="run `pip install QtAwesome`"):
        Icons().revision()


def test_a_wheel_without_the_font_is_named(tmp_path):
    font = _icon_fonts.IconFont("eva", "", "tkinter-icons-eva", "tkinter_icons_eva", "no.ttf", "")
    with pytest.raises(BenchError, match=r"tkinter-icons-eva \S+ has no file .*no\.ttf"):
        font.load()


def test_too_few_concepts_are_an_error(few_fonts, tmp_path):
    with pytest.raises(BenchError, match=r"0 concepts are drawn by 5 of the 4 icon families, .*"):
        Icons(Icons.Config(families=5)).load(24, tmp_path)


def test_wheels_are_never_imported(data):
    assert not {"qtawesome", *(font.package for font in FONTS)} & set(sys.modules)


@pytest.mark.parametrize(
    ("icon", "depicted"),
    [
        ("icon-anchor", "anchor"),
        ("ion-md-anchor", "anchor"),
        ("ion-ios-anchor-outline", "anchor"),
        ("ic-fluent-book-open-24-filled", "book-open"),
        ("ic-fluent-timer-10-24-regular", "timer-10"),
        ("eva-anchor-outline", "anchor"),
        ("typcn-anchor-outline", "anchor"),
        ("anchor-line", "anchor"),
        ("online-prediction", "online-prediction"),
        ("lock-off", "lock-off"),
        ("envelope-fill", "mail"),
        ("ic-fluent-add-24-regular", "plus"),
    ],
)
def test_a_concept_is_the_name_without_prefix_size_and_style(icon, depicted):
    assert concept(icon) == depicted


def test_no_synonym_stands_for_another_synonym():
    assert not set(_icon_fonts._PREFERRED) & set(_icon_fonts._PREFERRED.values())


def test_one_size_and_one_weight_of_an_icon_are_read():
    fonts = {font.name: font for font in FONTS}
    phosphor = dict(fonts["phosphor"].icons())
    assert {"heart", "heart-fill"} <= set(phosphor)
    assert not {"heart-thin", "heart-light", "heart-bold"} & set(phosphor)
    names = [name for name, _ in fonts["fluent-regular"].icons()]
    assert [name for name in names if name.startswith("ic-fluent-heart-2")] == [
        "ic-fluent-heart-24-regular"
    ]
    assert "ic-fluent-hand-open-heart-20-regular" in names  # it has no size 24


def flat(identity, shade):
    drawing = np.full((8, 8), shade, np.uint8)
    return Icon(identity, "family", drawing, drawing)


def test_a_drawing_under_two_names_is_dropped_from_both():
    drawn = {"lock": [flat("a", 0), flat("b", 9)], "safe": [flat("c", 9), flat("d", 30)]}
    kept = icons._without_shared(drawn)
    assert {name: [icon.id for icon in group] for name, group in kept.items()} == {
        "lock": ["a"],
        "safe": ["d"],
    }


def test_the_first_of_two_near_duplicates_stays():
    chain = [flat("first", 10), flat("near", 11), flat("far", 12), flat("exact", 10)]
    assert [icon.id for icon in icons._without_doubles(chain)] == ["first", "far"]


def test_an_empty_glyph_is_not_drawn():
    (lucide,) = (font for font in FONTS if font.name == "lucide")
    assert draw(lucide.load(), 0x10FFFE, (8,)) is None
    assert draw(lucide.load(), dict(lucide.icons())["icon-anchor"], (8,)) is not None
