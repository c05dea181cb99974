"""Which queries regressed, what both systems showed, and the file that keeps it."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bench.errors import BenchError
from bench.evaluation import cell, flips, orders
from bench.protocol import ImageSet, Method, RetrievalData
from bench.relevance import Ragged, Relevance
from bench.storage.results import flips_path

GALLERY, QUERIES, WIDTH = 30, 12, 6


class Squares:
    """Images of one colour: the red channel is ten times the row."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def read(self, rows):
        return torch.stack([torch.full((3, 4, 4), 8 * int(row), dtype=torch.uint8) for row in rows])


def world(seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, GALLERY)
    query_labels = random.integers(0, 4, QUERIES)
    relevant = [np.flatnonzero(labels == label)[1:] for label in query_labels]
    junk = [np.flatnonzero(labels == label)[:1] for label in query_labels]
    data = RetrievalData(
        train=None,
        query=ImageSet(Squares(QUERIES), query_labels, tuple(f"q{i}" for i in range(QUERIES))),
        gallery=ImageSet(Squares(GALLERY), labels, tuple(f"g{i}" for i in range(GALLERY))),
        relevance=Relevance(Ragged.from_lists(relevant), Ragged.from_lists(junk), GALLERY),
    )
    centres = random.normal(size=(4, WIDTH))

    def vectors(of, noise):
        return (centres[of] + noise * random.normal(size=(len(of), WIDTH))).astype(np.float32)

    embedded = cell.Embedded(
        query_old=vectors(query_labels, 0.3),
        gallery_old=vectors(labels, 0.3),
        query_new=vectors(query_labels, 1.5),
        gallery_new=vectors(labels, 1.5),
    )
    return data, embedded, random.permutation(GALLERY)


def collected(seed=0, method=None, **options):
    data, embedded, order = world(seed)
    method = method or Method()
    shares = np.linspace(0, 1, 5)
    deployed, old = cell.deploy(method, embedded), cell.search_old(embedded, data)
    rows = cell.rows(method, old, deployed, data, {"random": order}, shares)
    found = flips.collect(method, embedded, deployed, data, rows, "random", order, **options)
    return found, rows, data, embedded, order


def test_worst_share_and_queries_agree_with_a_loop():
    found, rows, data, *_ = collected()
    old = rows[rows["system"] == "old"].set_index("query")
    counts = {}
    for share, now in rows[rows["system"] == "refreshed"].groupby("share"):
        now = now.set_index("query").loc[old.index]
        lost = old.index[old["success_at_1"] & ~now["success_at_1"]]
        counts[share] = dict((old["AP"] - now["AP"])[lost])
    worst = max(counts, key=lambda share: (len(counts[share]), -share))
    assert found.share == worst
    assert found.flipped == len(counts[worst]) > 0
    expected = {}
    for query in sorted(counts[worst], key=lambda query: (-counts[worst][query], query)):
        expected.setdefault(int(data.query.labels[data.query.ids.index(query)]), query)
    assert [example.query for example in found.examples] == list(expected.values())[: flips.COUNT]
    for example in found.examples:
        lost = example.old_ap - example.refreshed_ap
        assert lost == pytest.approx(counts[worst][example.query])


@pytest.mark.parametrize("seed", range(5))
def test_shown_results_agree_with_a_search_of_the_mixed_gallery(seed):
    found, _, data, embedded, order = collected(seed)
    new = set(order[: int(np.floor(found.share * GALLERY + 0.5))].tolist())

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for example in found.examples:
        query = data.query.ids.index(example.query)
        kept = [item for item in range(GALLERY) if item not in data.relevance.junk[query]]
        old = {i: cosine(embedded.query_old[query], embedded.gallery_old[i]) for i in kept}
        mixed = {
            i: cosine(
                embedded.query_new[query],
                (embedded.gallery_new if i in new else embedded.gallery_old)[i],
            )
            for i in kept
        }
        for hits, scores, states in ((example.old, old, set()), (example.refreshed, mixed, new)):
            first = sorted(kept, key=lambda i: -scores[i])[: flips.DEPTH]
            assert [hit.item for hit in hits] == [f"g{i}" for i in first]
            assert [hit.state for hit in hits] == ["new" if i in states else "old" for i in first]
            assert [hit.relevant for hit in hits] == [
                i in data.relevance.relevant[query] for i in first
            ]
        assert example.old[0].relevant
        assert not example.refreshed[0].relevant


def evaluated(names, seed=0):
    data, embedded, _ = world()
    old = cell.search_old(embedded, data)
    inputs = orders.OrderInputs(GALLERY)
    return cell.evaluate(Method(), embedded, old, data, inputs, names, 5, seed)


@pytest.mark.parametrize("names", [("random", "oracle-mAP"), ("oracle-mAP", "random")])
def test_examples_are_of_the_first_order(names):
    rows, found = evaluated(names)
    assert found.order == names[0]
    assert found.share == flips.worst_share(rows, names[0])
    lost = set(flips.worst_queries(rows, names[0], found.share)["query"])
    assert {example.query for example in found.examples} <= lost


def test_every_seed_walks_a_random_order_of_its_own():
    first, again, other = (evaluated(("random",), seed)[0]["AP"].dropna() for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_method_that_merges_is_shown_as_it_ranks():
    method = Method()
    method.merge = lambda old, new: (old + 10, new)
    found, *_ = collected(method=method)
    for example in found.examples:
        states = [hit.state for hit in example.refreshed]
        assert states == sorted(states, reverse=True)
        assert not example.refreshed[0].relevant


def test_a_method_that_buys_is_shown_as_it_ranks():
    class Buys(Method):
        purchases = 2

    found, _, data, embedded, order = collected(method=Buys())
    done = int(np.floor(found.share * GALLERY + 0.5))
    for example in found.examples:
        query = data.query.ids.index(example.query)
        old, new = (
            gallery @ asked[query] / np.linalg.norm(gallery, axis=1)
            for gallery, asked in (
                (embedded.gallery_old, embedded.query_new),  # as the base class asks
                (embedded.gallery_new, embedded.query_new),
            )
        )
        waiting = sorted(order[done:], key=lambda item: -old[item])
        ranked = sorted([*order[:done], *waiting[:2]], key=lambda item: -new[item])
        ranked = [i for i in [*ranked, *waiting[2:]] if i not in data.relevance.junk[query]]
        shown = [data.gallery.ids[item] for item in ranked[: flips.DEPTH]]
        assert [hit.item for hit in example.refreshed] == shown


def test_images_are_those_of_query_and_items():
    found, _, data, *_ = collected()
    example = found.examples[0]
    shown = [(example.image, data.query.ids.index(example.query))]
    shown += [(hit.image, int(hit.item[1:])) for hit in example.refreshed]
    for image, row in shown:
        assert np.asarray(Image.open(io.BytesIO(image)))[0, 0].tolist() == [8 * row] * 3


def test_examples_survive_writing_and_reading(tmp_path):
    found, *_ = collected()
    path = flips_path(tmp_path / "seed-0.parquet")
    flips.write(path, found)
    assert path.name == "seed-0.flips.json"
    assert flips.read(path) == found


def test_a_cell_without_flips_has_no_examples(tmp_path):
    frame = pd.DataFrame(
        {
            "query": ["a", "a"],
            "system": ["old", "refreshed"],
            "order": ["", "random"],
            "share": [np.nan, 0.0],
            "AP": [0.5, 1.0],
            "success_at_1": [True, True],
        }
    )
    assert flips.worst_share(frame, "random") == 0
    assert flips.worst_queries(frame, "random", 0.0).empty


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 99}', "[1]"])
def test_other_files_are_refused_with_a_sentence(tmp_path, content):
    path = tmp_path / "seed-0.flips.json"
    path.write_text(content)
    with pytest.raises(BenchError, match="restores it from the cache, or delete it"):
        flips.read(path)
