import os
import pickle

import numpy as np
import pytest

from bench.errors import BenchError
from datasets._plain_pickle import load_plain

PLAIN = {
    "imlist": ["a", "ü"],
    "nested": [(1, 2.5, None, True), {3, 4}, frozenset({5}), b"\x00\xff", b""],
    "arrays": [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1, 2], ">i4"),
        np.empty(0, np.int64),
        np.array([True, False]),
    ],
    "numbers": [np.int64(7), np.float32(0.5)],
}


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def written(path, content, protocol=None):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_is_read_as_pickle_reads_it(tmp_path, protocol):
    found = load_plain(written(tmp_path / "plain.pkl", PLAIN, protocol))
    for array, expected in zip(found.pop("arrays"), PLAIN["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
    assert found == {key: value for key, value in PLAIN.items() if key != "arrays"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.mkdir, ("ran",)), (eval, ("__import__('os').mkdir('ran')",)), (bytearray, (9,))],
)
def test_nothing_runs(tmp_path, monkeypatch, protocol, function, arguments):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "hostile.pkl", [Runs(function, *arguments)], protocol)
    with pytest.raises(BenchError, match=r"hostile\.pkl cannot be read .*is not allowed"):
        load_plain(path)
    assert not (tmp_path / "ran").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = written(tmp_path / "objects.pkl", np.array([{}, []], dtype=object))
    with pytest.raises(BenchError, match="which is no number"):
        load_plain(path)


def test_memory_is_not_given_for_the_asking(tmp_path):
    path = written(tmp_path / "large.pkl", [Runs(bytes, 10**15)])
    with pytest.raises(BenchError, match=r"large\.pkl cannot be read"):
        load_plain(path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(PLAIN)[:-20]])
def test_what_is_no_whole_pickle_is_named(tmp_path, content):
    (tmp_path / "broken.pkl").write_bytes(content)
    with pytest.raises(BenchError, match=r"broken\.pkl cannot be read"):
        load_plain(tmp_path / "broken.pkl")


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(BenchError, match=r"gone\.pkl is not there"):
        load_plain(tmp_path / "gone.pkl")
