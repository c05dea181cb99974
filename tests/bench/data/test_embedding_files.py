"""Files of embeddings: what is read arrives, and only sentences come out of what is not."""

import gzip
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bench.data.embedding_files import (
    EmbeddingTable,
    aligned,
    check_same_space,
    read_embeddings,
    read_order,
    read_relevance,
)
from bench.errors import BenchError

ROWS, WIDTH = 12, 11  # more than ten dimensions: d10 sorts before d2 as text
TABLE = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
IDS = tuple(f"item {n}" for n in range(ROWS))


def frame(columns=range(WIDTH), **more):
    return pd.DataFrame({**more, **{f"d{n}": TABLE[:, n] for n in columns}})


def written(folder, kind):
    path = folder / f"vectors{kind}"
    if kind == ".npy":
        np.save(path, TABLE)
        path.with_suffix(".ids.txt").write_text("\ufeff" + "\r\n".join(IDS))
    elif kind == ".npz":
        np.savez_compressed(path, vectors=TABLE, ids=np.array(IDS))
    elif kind == ".safetensors":
        save_file({"v": torch.tensor(TABLE)}, path, {"ids": json.dumps(IDS)})
    else:
        pd.DataFrame({"id": IDS, "embedding": list(TABLE)}).to_parquet(path)
    return path


KINDS = [".npy", ".npz", ".parquet", ".safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_ids_arrive(tmp_path, kind):
    found = read_embeddings(written(tmp_path, kind))
    np.testing.assert_array_equal(found.rows, TABLE)
    assert found.ids == IDS


def test_tables_on_disk_stay_there(tmp_path, monkeypatch):
    assert isinstance(read_embeddings(written(tmp_path, ".npy")).rows, np.memmap)
    monkeypatch.setattr("bench.data.embedding_files._IN_MEMORY", 16)
    for kind in (".npz", ".parquet"):
        found = read_embeddings(written(tmp_path, kind)).rows
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, TABLE)


@pytest.mark.parametrize("place", ["parts", "parts/part-*.parquet"])
def test_parts_are_read_in_the_order_of_their_names(tmp_path, place):
    (tmp_path / "parts").mkdir()
    whole = pd.DataFrame({"id": IDS, "embedding": list(TABLE)})
    whole[:5].to_parquet(tmp_path / "parts" / "part-0.parquet")
    whole[5:].to_parquet(tmp_path / "parts" / "part-1.parquet")
    found = read_embeddings(tmp_path / place)
    np.testing.assert_array_equal(found.rows, TABLE)
    assert found.ids == IDS


def test_part_ten_comes_after_part_two(tmp_path):
    for row in range(ROWS):
        frame()[row : row + 1].to_parquet(tmp_path / f"part-{row}.parquet")
    np.testing.assert_array_equal(read_embeddings(tmp_path).rows, TABLE)
    (tmp_path / "deep").mkdir()
    frame().to_parquet(tmp_path / "deep" / "x.parquet")
    with pytest.raises(BenchError, match=r"deep/x.parquet lies in a folder of its own"):
        read_embeddings(tmp_path)


def test_parts_of_different_types_are_refused(tmp_path):
    frame()[:5].to_parquet(tmp_path / "part-0.parquet")
    frame()[5:].astype({"d3": str}).to_parquet(tmp_path / "part-1.parquet")
    with pytest.raises(BenchError, match="part-1.parquet has columns of other types"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "query,item,relevances\n0,1,0\n", "has a column 'relevances'; expected query"),
        ("t.jsonl", '{"query": 0, "item": 1, "item": 2}\n', "line 1: a key occurs twice"),
        ("t.jsonl", '{"query": 0, "item": 1}\n{"query"\n', "line 2: "),
    ],
)
def test_relevance_that_would_be_misread_is_refused(tmp_path, name, text, words):
    table = EmbeddingTable(tmp_path, TABLE)
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchError, match=words):
        read_relevance(tmp_path / name, table, table)


def test_counts_are_not_negative(tmp_path):
    (tmp_path / "o.csv").write_text("item,count\n3,-5\n")
    with pytest.raises(BenchError, match="line 2: count is -5; expected 0 or more"):
        read_order(tmp_path / "o.csv", EmbeddingTable(tmp_path, TABLE))


def test_dimension_columns_are_matched_by_name(tmp_path):
    order = np.random.default_rng(1).permutation(WIDTH).tolist()
    frame(order, key=IDS).to_parquet(tmp_path / "a.parquet")
    found = read_embeddings(tmp_path / "a.parquet", "key")
    np.testing.assert_array_equal(found.rows, TABLE)
    assert found.ids == IDS
    frame().rename(columns=lambda name: name.replace("d", "e")).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(BenchError, match="a.parquet are named d0 … d10, those .*b.parquet e0"):
        check_same_space(found, read_embeddings(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (frame(image_id=range(ROWS)), "column 'image_id' is neither 'id' nor a dimension"),
        (frame([n for n in range(WIDTH) if n != 4]), "do not count the dimensions without gaps"),
        (frame(d11="x"), "the column 'd11' holds .*string, not numbers"),
        (pd.DataFrame({"embedding": ["1 2"] * 3}), "column 'embedding' holds .*string; save lists"),
        (pd.DataFrame({"embedding": [b"12"] * 3}), "column 'embedding' holds binary"),
        (pd.DataFrame({"embedding": [[1.0], [1.0, 2.0]]}), "rows of different lengths"),
        (frame(id=[["a"]] * ROWS), "column 'id' holds list"),
    ],
)
def test_columns_that_are_not_understood_are_refused_by_name(tmp_path, table, words):
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(BenchError, match=words):
        read_embeddings(tmp_path / "t.parquet")


def test_ids_in_one_file_of_a_pair_only_are_refused(tmp_path):
    named = EmbeddingTable(tmp_path / "named.npy", TABLE, IDS)
    bare = EmbeddingTable(tmp_path / "bare.npy", TABLE)
    for pair in ((named, bare), (bare, named)):
        with pytest.raises(BenchError, match="named.npy has ids and .*bare.npy has none"):
            aligned(*pair, "gallery items")


def test_ids_decide_who_is_who(tmp_path):
    shuffle = np.random.default_rng(2).permutation(ROWS)
    other = EmbeddingTable(tmp_path / "b", TABLE[shuffle], tuple(IDS[n] for n in shuffle))
    np.testing.assert_array_equal(
        aligned(other, EmbeddingTable(tmp_path / "a", TABLE, IDS), "items").rows, TABLE
    )


def header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"", "is empty"),
        ("a.npz", b"", "is empty"),
        ("a.npy", header((1 << 40, 1 << 20)) + b"0000", "its header promises"),
        ("a.npy", header((-1, 5)), "not a table of numbers"),
        ("a.npz", b"\x93NUMPY no archive", "not a zip file"),
        ("a.parquet", b"PAR1 nothing PAR1", "cannot be read"),
        ("a.safetensors", b"\xff" * 64, "cannot be read"),
        ("a.txt", b"1 2 3", "expected a file that ends in"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchError, match=words):
        read_embeddings(tmp_path / name)


def test_a_damaged_member_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, vectors=TABLE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BenchError, match="Bad CRC-32"):
        read_embeddings(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["v.npy", "v", "ids.npy"])
def test_an_array_that_is_there_twice_is_refused(tmp_path, second):
    np.savez(tmp_path / "a.npz", v=TABLE, ids=np.arange(len(TABLE)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr(second, archive.read("v.npy"))
    with pytest.raises(BenchError, match="an array is there twice"):
        read_embeddings(tmp_path / "a.npz")


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", header((2, 2)) + b"\0" * 10_000_000)
    with pytest.raises(BenchError, match="promises 2 × 2 numbers"):
        read_embeddings(tmp_path / "a.npz")


TRUTH = [("q0", "item 1", 3), ("q0", "item 2", 0), ("q1", "item 3", 1), ("q1", "item 4", -1)]


def qrels(folder, kind):
    path = folder / f"truth{kind}"
    if kind.startswith(".csv"):
        text = "\ufeffquery,item,relevance\r\n" + "".join(f"{q},{i},{v}\r\n" for q, i, v in TRUTH)
    elif kind.startswith(".jsonl"):
        text = "\n".join(json.dumps({"query": q, "item": i, "relevance": v}) for q, i, v in TRUTH)
    else:
        text = "\n".join(f"{q}\t0 {i.replace(' ', '-')} {v}" for q, i, v in TRUTH)
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".qrels", ".qrels.gz"])
def test_graded_relevance_arrives_from_every_kind_of_file(tmp_path, kind):
    names = tuple(name.replace(" ", "-") for name in IDS) if "qrels" in kind else IDS
    queries = EmbeddingTable(tmp_path / "q", TABLE[:2], ("q0", "q1"))
    found = read_relevance(
        qrels(tmp_path, kind), queries, EmbeddingTable(tmp_path / "g", TABLE, names)
    )
    assert [rows.tolist() for rows in found.relevant] == [[1], [3]]
    assert [rows.tolist() for rows in found.junk] == [[], [4]]
    assert found.gains.tolist() == [3, 1]


def test_orders_are_names_one_a_line_or_numbers(tmp_path):
    gallery = EmbeddingTable(tmp_path / "g", TABLE, IDS)
    (tmp_path / "order.txt").write_text("\ufeff" + "\r\n".join(reversed(IDS)), encoding="utf-8")
    assert read_order(tmp_path / "order.txt", gallery).tolist() == list(range(ROWS))[::-1]
    (tmp_path / "visits.csv").write_text("item,count\nitem 3,5\nitem 7,9\n")
    assert read_order(tmp_path / "visits.csv", gallery).tolist()[:3] == [7, 3, 0]
    (tmp_path / "scores.csv").write_text("item,score\nitem 3,5\n")
    with pytest.raises(BenchError, match="a score of each item"):
        read_order(tmp_path / "scores.csv", gallery)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BenchError, match=r"latin.txt cannot be read"):
        read_order(tmp_path / "latin.txt", gallery)


SEEDED = settings(
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DAMAGE = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 255), st.sampled_from(["set", "cut", "add"])),
    min_size=1,
    max_size=4,
)


def damaged(content, damage):
    for place, value, what in damage:
        place %= max(1, len(content))
        if what == "set":
            content = content[:place] + bytes([value]) + content[place + 1 :]
        elif what == "cut":
            content = content[:place]
        else:
            content = content[:place] + bytes([value]) * (value % 9) + content[place:]
    return content


@pytest.mark.parametrize("kind", KINDS)
@SEEDED
@given(damage=DAMAGE)
def test_only_sentences_come_out_of_damaged_embeddings(tmp_path, kind, damage):
    whole = tmp_path / "whole"
    whole.mkdir(exist_ok=True)
    path = tmp_path / f"damaged{kind}"
    path.write_bytes(damaged(written(whole, kind).read_bytes(), damage))
    said = str(path)
    try:
        assert np.isfinite(read_embeddings(path).rows).all()
    except BenchError as error:
        said = str(error)
    assert str(path) in said


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".qrels", ".csv.gz"])
@SEEDED
@given(damage=DAMAGE)
def test_only_sentences_come_out_of_damaged_relevance(tmp_path, kind, damage):
    names = tuple(name.replace(" ", "-") for name in IDS) if "qrels" in kind else IDS
    queries = EmbeddingTable(tmp_path / "q", TABLE[:2], ("q0", "q1"))
    gallery = EmbeddingTable(tmp_path / "g", TABLE, names)
    path = tmp_path / f"damaged{kind}"
    path.write_bytes(damaged(qrels(tmp_path, kind).read_bytes(), damage))
    said = str(path)
    try:
        assert read_relevance(path, queries, gallery).query_count == 2
    except BenchError as error:
        said = str(error)
    assert str(path) in said


def test_pickles_are_never_loaded(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([[{}]], dtype=object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    with pytest.raises(BenchError, match="never loaded"):
        read_embeddings(tmp_path / "a.npy")
