"""The report: self-contained, reproducible, escaped, readable, and true to the records."""

import io
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from bench.analysis.scenarios import summarise
from bench.analysis.suite_records import read_suite
from bench.errors import BenchError
from bench.evaluation import flips
from bench.report import build, figures, up_to_date
from bench.report.tables import scenario_table
from bench.storage.results import flips_path
from tests.bench.conftest import make_suite, store_suite

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects elements and text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def small_suite(tmp_path):
    store_suite(tmp_path, *make_suite(queries=9, seeds=[0], methods={"bct": (0.1, 0.2)}))
    return tmp_path


def test_a_report_is_replaced_by_one_process_at_a_time(small_suite):
    page = build(small_suite, "made-up")
    before = page.stat().st_mtime_ns
    lock = FileLock(small_suite / "cache" / "report-made-up.lock")
    with ThreadPoolExecutor(1) as pool:
        with lock:
            second = pool.submit(build, small_suite, "made-up")
            with pytest.raises(TimeoutError):
                second.result(2)
            assert page.stat().st_mtime_ns == before
        assert second.result(120).is_file()


def test_a_report_is_replaced_whole_and_what_a_killed_process_left_is_removed(small_suite):
    folder = build(small_suite, "made-up").parent
    files = {path.relative_to(folder) for path in folder.rglob("*")}
    (folder.parent / "made-up.x.partial" / "made").mkdir(parents=True)
    (folder / "old.csv").touch()
    assert build(small_suite, "made-up").parent == folder
    assert folder in folder.parent.iterdir()
    assert not list(folder.parent.glob("*.partial"))
    assert {path.relative_to(folder) for path in folder.rglob("*")} == files


@pytest.fixture(scope="module")
def written(stored_suite):
    """The default suite's report: (path, page)."""
    path = build(stored_suite, "made-up")
    return path, Page(path.read_text())


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, format="PNG")
    return stream.getvalue()


def test_the_page_loads_nothing_and_runs_nothing(written):
    path, page = written
    assert path.name == "report.html"
    assert not page.all("script")
    assert not page.all("link")
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#"))
    assert "default-src 'none'" in path.read_text()
    assert not re.search(r"@import|url\((?!#)", path.read_text())


def test_keyboards_and_screen_readers_meet_few_landmarks_and_can_skip(written):
    _, page = written
    assert next(a for tag, a in page.elements if tag == "a")["href"] == "#content"
    assert [a.get("id") for a in page.all("main")] == ["content"]
    assert not [a for _, a in page.elements if a.get("role") == "region"]
    assert not [a for tag, a in page.elements if tag == "section" and len(a) and "class" not in a]
    assert not [a for tag, a in page.elements if "title" in a]


def test_some_scenarios_and_methods_have_a_report_of_their_own(written, stored_suite):
    whole = written[0].read_bytes()
    path = build(stored_suite, "made-up", ("extended-data",), ("ract", "bct"), ("M(n,n)",))
    assert path.parent.name == "made-up+scenarios=extended-data+methods=ract,bct"
    page = Page(path.read_text())
    assert "extended-class" not in page.text
    assert "l2" not in re.findall(r"\w+", page.text)
    assert "Only scenarios: extended-data and methods: ract, bct of this suite." in page.text
    (source,) = (path.parent / "tables").glob("*/extended-data-on-icons.tex")
    heads = next(line for line in source.read_text().splitlines() if line.startswith("method &"))
    assert heads == r"method & M(n,n) $\uparrow$ \\"
    assert written[0].read_bytes() == whole
    with pytest.raises(BenchError, match="unknown column"):
        build(stored_suite, "made-up", columns=("M(m,m)",))
    with pytest.raises(BenchError, match="unknown method among the records"):
        build(stored_suite, "made-up", methods=("rcat",))


def test_a_page_is_made_again_only_for_other_records(written, stored_suite, tmp_path):
    path, _ = written
    before = path.stat().st_mtime_ns
    assert up_to_date(stored_suite, "made-up") == path
    assert path.stat().st_mtime_ns == before
    store_suite(tmp_path, *make_suite(queries=30, seeds=[0]))
    page = up_to_date(tmp_path, "made-up")
    made = page.stat().st_mtime_ns
    store_suite(tmp_path, *make_suite(queries=30, seeds=[0, 1]))
    assert up_to_date(tmp_path, "made-up").stat().st_mtime_ns > made


def test_identifiers_are_unique_and_references_meet_them(written):
    _, page = written
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "xlink:href", "aria-labelledby"):
            target = attributes.get(name, "").lstrip("#")
            assert not target or target.startswith("data:") or target in ids


def test_the_page_shows_the_numbers_of_the_tables(written, stored_suite):
    _, page = written
    text = re.sub(r"\s+", " ", page.text)
    for scenario in summarise(*read_suite(stored_suite, "made-up")):
        table = scenario_table(scenario)
        assert re.sub(r"\s+", " ", table.caption) in text
        for row in table.texts():
            shown = "".join(
                f"{value}{cell.marks}"
                f"{' better than ' + ', '.join(cell.beats) if cell.beats else ''} {interval}"
                for value, interval, cell in row[1:4]
            )
            assert shown in text


def test_every_figure_and_table_is_a_file_and_has_a_text_alternative(written):
    path, page = written
    svgs = sorted(each.stem for each in path.parent.glob("figures/*.svg"))
    # Curves of mAP and NFR, two trade-offs of 2 scenarios, 2 rank diagrams, throughput.
    assert len(svgs) == 2 * 4 + 2 + 1
    assert len(page.all("svg")) == len(svgs)
    for name in svgs:
        ElementTree.parse(path.parent / "figures" / f"{name}.svg")
        with Image.open(path.parent / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    for words in (
        "Line chart of mAP",
        "Line chart of NFR@1",
        "Scatter chart",
        "Bar chart",
        "ms, AUC NFR@1",
    ):
        assert words in page.text
    assert "Critical-difference diagram of mean ranks over 2 scenarios" in page.text
    for suffix in ("csv", "md", "tex"):
        assert (
            path.parent / f"tables/extended-class-on-icons/extended-class-on-icons.{suffix}"
        ).stat().st_size > 500


def test_another_process_makes_the_same_bytes_without_torch(stored_suite, written):
    path, _ = written
    before = {each: each.read_bytes() for each in path.parent.rglob("*") if each.is_file()}
    (path.parent / "figures" / "stale.svg").write_text("left over")
    code = (
        "import sys; from pathlib import Path; from bench.report import build; "
        f"build(Path({str(stored_suite)!r}), 'made-up'); "
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    after = {each: each.read_bytes() for each in path.parent.rglob("*") if each.is_file()}
    assert after == before


def test_names_are_escaped_everywhere(tmp_path):
    hostile = "<b onclick=x>&\"'"
    methods = {"independent": (-3.0, 0.5), hostile: (0.2, 0.4)}
    store_suite(tmp_path, *make_suite(methods=methods, queries=40))
    hits = (flips.Hit(hostile, png("blue"), True, "old"),)
    wild = (flips.Hit("a\x1b[2J\x07\u202eb", png("blue"), True, "old"),)
    example = flips.FlipExample(hostile, png("red"), 1.0, 0.5, hits, wild)
    record = tmp_path / f"records/made-up/icons/extended-class/{hostile}/seed-0.parquet"
    flips.write(flips_path(record), flips.Flips("random", 0.2, 3, (example,)))
    page = Page(build(tmp_path, "made-up").read_text())
    assert not [a for tag, a in page.elements if "onclick" in a]
    assert hostile in page.text
    alternatives = {f"Result 1 of the old system: {hostile}", f"Query image {hostile}"}
    alternatives.add("Result 1 of the refreshed system: a\\x1b[2J\\x07\\u202eb")  # spelled out
    assert {a["alt"] for a in page.all("img")} == alternatives


def test_the_gallery_marks_relevance_and_state(tmp_path):
    store_suite(tmp_path, *make_suite(queries=40))
    hits = (
        flips.Hit("right", png("blue"), True, "old"),
        flips.Hit("wrong", png("green"), False, "new"),
    )
    example = flips.FlipExample("a query", png("red"), 0.9, 0.125, hits[:1], hits)
    record = tmp_path / "records/made-up/icons/extended-class/ract/seed-1.parquet"
    flips.write(flips_path(record), flips.Flips("random", 0.2, 7, (example,)))
    page = Page(build(tmp_path, "made-up").read_text())
    assert "ract, seed 1: 7 of 40 queries regress at 20 % backfilled" in page.text
    shown = [a["class"] for a in page.all("li") if a.get("class", "").startswith("hit")]
    assert shown == ["hit relevant", "hit relevant", "hit"]
    assert re.search(r"✗\s*not relevant,\s*new", page.text)
    assert re.search(r"✗\s*not relevant,\s*new\s*wrong", page.text)  # its name is text
    assert "Old system, AP 0.900" in page.text
    assert "Refreshed system, AP 0.125" in page.text
    (lost,) = re.findall("Missing beside their records: the examples of (.*?)\\. The", page.text)
    assert "ract, seed 0; ract, seed 2" in lost  # what there is of ract is another seed's
    assert "ract, seed 1" not in lost


@pytest.mark.parametrize(
    "options",
    [
        {"methods": {"bct": (0.1, 0.2)}, "seeds": [3]},
        {"seeds": [0], "shares": np.array([0.0, 1.0])},
        {"seeds": [0], "shares": np.linspace(0, 1, 101)},
    ],
    ids=["one method, one seed", "two shares", "every percent"],
)
def test_suites_of_any_shape_have_a_report(tmp_path, options):
    store_suite(tmp_path, *make_suite(queries=30, **options))
    page = Page(build(tmp_path, "made-up").read_text())
    assert "Fewer than 3 seeds" in page.text
    assert "nan" not in page.text.lower()


def test_no_records_are_named(tmp_path):
    with pytest.raises(BenchError, match="no records of suite 'default'"):
        build(tmp_path, "default")


# ----------------------------------------------------------------------------- accessible colours


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, two):
    """Contrast ratio of WCAG 2."""
    dark, light = sorted([luminance(one), luminance(two)])
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_told_from_the_paper_in_both_themes(written):
    source = written[0].read_text()
    for theme in re.findall(r":root \{(.*?)\n\s*\}", source, flags=re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        for name in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(colours[name], colours["paper"]) >= 4.5
            assert contrast(colours[name], colours["panel"]) >= 4.5
        for place in range(len(figures.LIGHT)):
            assert contrast(colours[f"method-{place}"], colours["paper"]) >= 3


def test_methods_are_never_told_apart_by_colour_alone():
    looks = figures.looks([f"method-{number:02d}" for number in range(30)])
    assert len({(look.marker, look.dashes) for look in looks.values()}) == 30


def test_figures_on_the_page_follow_the_theme(written):
    source = written[0].read_text()
    body = source[source.index("<body>") :]
    for colour in (*figures.LIGHT, figures.INK, figures.GRID):
        assert colour not in body
    assert "var(--method-0)" in body


def test_bands_and_lines_lie_where_the_numbers_are(default_scenarios):
    scenario = default_scenarios[0]
    figure = figures.curve(scenario, "mAP", figures.looks(scenario.methods))
    axes = figure.canvas.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    for position, method in enumerate(scenario.methods):
        assert np.array_equal(lines[method].get_ydata(), scenario.curves["mAP"].value[position])
        band = axes.collections[position].get_paths()[0].vertices[:, 1]
        assert band.min() == scenario.curves["mAP"].low[position].min()
        assert band.max() == scenario.curves["mAP"].high[position].max()
