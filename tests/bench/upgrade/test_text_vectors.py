"""The docstrings that the documented text upgrade searches, without the models."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "docs" / "text_vectors.py"


def test_docstrings_are_split_and_taken_once(tmp_path):
    first, rest = "Find the answer to a question.", " ".join(["It takes a while."] * 6)
    source = f'def one():\n    """{first}\n\n    {rest}\n    """\n'
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "b.py").write_text(source)  # the same text again
    (tmp_path / "c.py").write_text('def two():\n    """Short.\n\n    Too.\n    """\n')
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "d.py").write_text(source.replace("answer", "test"))
    found = runpy.run_path(str(SCRIPT))["docstrings"](tmp_path)
    assert found == {"a.py:1": (first, rest)}
