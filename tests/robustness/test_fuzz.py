"""A little of what `python -m tests.robustness.fuzz` does, on every kind of file."""

import pytest

from tests.robustness.fuzz import kinds, try_kind


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return kinds(tmp_path_factory.mktemp("fuzz"))


def test_nothing_but_sentences_comes_out_of_damaged_files(every):
    assert len(every) >= 20
    for name, kind in every.items():
        tried, faults = try_kind(kind, 10, number=1)
        assert tried >= 5, name
        assert not faults, name


def test_the_sound_file_of_every_kind_is_read(every):
    for name, kind in every.items():
        kind.path.parent.mkdir(parents=True, exist_ok=True)
        kind.path.write_bytes(kind.content)
        kind.read(kind.path)
        assert kind.path.read_bytes() == kind.content, name


def test_a_reader_that_lets_an_error_through_is_found(every):
    kind = every["suite"]
    kind.read = lambda path: int(path.read_bytes())
    assert try_kind(kind, 5, number=1)[1]
