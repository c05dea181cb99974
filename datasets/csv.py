"""Your own images in a table: path,label[,split][,camera], paths relative to the table's folder.

Write `csv:PATH`; `_labelled_table` says what the other columns mean.
"""

from __future__ import annotations

from datasets._labelled_table import LabelledTable


class Table(LabelledTable):
    """Relevant is what shares the label; the query itself and its own camera's images are junk."""

    column = "path"
