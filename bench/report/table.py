"""One table object → terminal, CSV, Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.errors import unknown
from bench.output.texts import plain, spreadsheet

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType

P_COLUMNS = ("p", "p (Holm)", "p over trainings (Holm)")
ARROWS = {1: "↑", -1: "↓", 0: ""}


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    `value` is a number or a text; `low` and `high` bound it where they are finite; `marks` is a
    superscript and `beats` the methods that it stands for; `best` is set in bold. `letter` is what
    a row is called in the superscripts of others, in parentheses behind its name.
    """

    value: float | str
    low: float = math.nan
    high: float = math.nan
    marks: str = ""
    beats: tuple[str, ...] = ()
    best: bool = False
    letter: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its name, how many decimals its numbers have, and what is better (+1, −1, 0).

    Differences are `signed`: a plus says that they are none below 0.
    """

    name: str
    decimals: int = 3
    better: int = 0
    signed: bool = False

    @property
    def heading(self) -> str:
        """The name, with an arrow towards what is better."""
        return f"{self.name} {ARROWS[self.better]}".strip()


@dataclass(frozen=True)
class Table:
    """A table with everything a reader needs: title, caption, notes.

    The first column names the rows. Numbers are rounded here, once, for every output but CSV,
    which has all digits and the bounds.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    notes: tuple[str, ...] = ()

    def texts(self) -> Iterator[list[tuple[str, str, Cell]]]:
        """Yield each row as (value, interval or nothing, cell)."""
        for row in self.rows:
            yield [
                (_shown(cell, column), _interval(cell, column), cell)
                for cell, column in zip(row, self.columns, strict=True)
            ]

    def frame(self) -> pd.DataFrame:
        """Return all digits, with columns `… low` and `… high` where there are bounds."""
        content: dict[str, list[Any]] = {}
        for position, column in enumerate(self.columns):
            cells = [row[position] for row in self.rows]
            content[column.name] = [cell.value for cell in cells]
            if any(_bounded(cell) for cell in cells):
                content[f"{column.name} low"] = [cell.low for cell in cells]
                content[f"{column.name} high"] = [cell.high for cell in cells]
            if any(cell.beats for cell in cells):
                content[f"{column.name} beats"] = [" ".join(cell.beats) for cell in cells]
        import pandas as pd

        return pd.DataFrame(content)

    def only(self, names: Sequence[str] | None) -> Table:
        """Keep the first column and those named, in that order; None: all.

        Raises BenchError for a column that the table does not have.
        """
        if names is None:
            return self
        there = {column.name: place for place, column in enumerate(self.columns)}
        for name in names:
            if name not in there:
                raise unknown("column", name, there)
        places = list(dict.fromkeys([0, *(there[name] for name in names)]))
        return replace(
            self,
            columns=tuple(self.columns[place] for place in places),
            rows=tuple(tuple(row[place] for place in places) for row in self.rows),
        )

    def csv(self) -> str:
        """Comma-separated values with all digits; no text is a spreadsheet's formula."""
        return str(spreadsheet(self.frame()).to_csv(index=False))

    def rich(self) -> RenderableType:
        """Return what a terminal shows: as many blocks of columns as its width requires."""
        return _Terminal(self)

    def markdown(self) -> str:
        """GitHub's Markdown; superscripts as HTML, which it allows."""

        def text(value: str, interval: str, cell: Cell) -> str:
            shown = _markdown_escaped(value)
            shown = f"**{shown}**" if cell.best else shown
            shown += f"<sup>{cell.marks}</sup>" if cell.marks else ""
            return f"{shown} {interval}" if interval else shown

        lines = [
            f"**{_markdown_escaped(self.title)}**",
            "",
            _markdown_row(_markdown_escaped(column.heading) for column in self.columns),
            _markdown_row("---" if not i else "---:" for i in range(len(self.columns))),
            *(_markdown_row(text(*each) for each in row) for row in self.texts()),
            "",
            _markdown_escaped(self.caption),
            "",
            *(f"- {_markdown_escaped(note)}" for note in self.notes),
        ]
        return "\n".join(lines) + "\n"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return what a notebook shows."""
        return {"text/markdown": self.markdown(), "text/plain": self.title}

    def latex(self) -> str:
        """LaTeX for booktabs and graphicx (wide tables are shrunk to the line)."""

        def text(value: str, interval: str, cell: Cell) -> str:
            shown = _latex_escaped(value)
            shown = rf"\textbf{{{shown}}}" if cell.best else shown
            shown += rf"\textsuperscript{{{cell.marks}}}" if cell.marks else ""
            return rf"{shown} {{\scriptsize {interval}}}" if interval else shown

        caption = " ".join([f"{self.title}.", self.caption, *self.notes])
        heading = " & ".join(_latex_escaped(column.heading) for column in self.columns)
        lines = [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_escaped(caption)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"\toprule",
            rf"{heading} \\",
            r"\midrule",
            *(rf"{' & '.join(text(*each) for each in row)} \\" for row in self.texts()),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return an HTML fragment; all that it says is text, nothing needs a pointer."""

        def text(value: str, interval: str, cell: Cell) -> str:
            shown = html.escape(value)
            shown = f"<strong>{shown}</strong>" if cell.best else shown
            shown += _superscript(cell)
            return f'{shown} <span class="interval">{interval}</span>' if interval else shown

        heads = "".join(f'<th scope="col">{html.escape(c.heading)}</th>' for c in self.columns)
        rows = []
        for (name, _, first), *others in self.texts():
            cells = "".join(f"<td>{text(*each)}</td>" for each in others)
            head = f'<th scope="row">{html.escape(name)}{_superscript(first)}</th>'
            rows.append(f"<tr>{head}{cells}</tr>")
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        wide = " wide" if len(self.columns) > FIT_A_SCREEN else ""
        hint = (
            f'<p class="hint{wide}" aria-hidden="true">{HINT}</p>' if len(self.columns) > 4 else ""
        )
        return (
            f'<figure class="table">{hint}<div class="scroll" tabindex="0" role="group" '
            f'aria-label="{html.escape(self.title)}"><table>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
            f"<figcaption><p>{html.escape(self.caption)}</p>"
            f"{f'<ul>{notes}</ul>' if notes else ''}</figcaption></figure>"
        )


HINT, FIT_A_SCREEN = "Scroll sideways for all columns →", 12


def _superscript(cell: Cell) -> str:
    """Letters to be seen, and the names that they stand for to be heard."""
    if not cell.marks:
        return ""
    marks = html.escape(cell.marks)
    if not cell.beats:
        return f"<sup>{marks}</sup>"
    heard = html.escape(", ".join(cell.beats))
    return f'<sup aria-hidden="true">{marks}</sup><span class="sr"> better than {heard}</span>'


@dataclass(frozen=True)
class Screen:
    """What a suite's records say, in lines of at most 80 columns; `what` describes the records."""

    what: str
    lines: tuple[str, ...]


class _Terminal:
    """Lays a table out for the console it is printed on."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.padding import Padding
        from rich.table import Table as RichTable
        from rich.text import Text

        cells = [[_terminal_text(*each) for each in row] for row in self.table.texts()]
        widths = [self._width(cells, position) for position in range(len(self.table.columns))]
        for number, columns in enumerate(_blocks(widths, options.max_width)):
            block = RichTable(box=None, pad_edge=False, title_justify="left")
            block.title = Text(self.table.title, style="bold") if not number else None
            for position in columns:
                heading = self.table.columns[position].heading
                block.add_column(
                    Text("\n".join(textwrap.wrap(heading, widths[position])), style="bold"),
                    justify="right" if position else "left",
                    no_wrap=True,
                    width=widths[position],
                    vertical="top",
                )
            for row in cells:
                block.add_row(*(row[position] for position in columns))
            yield Padding(block, (1, 0, 0, 0))
        yield Text(self.table.caption, style="dim")
        for note in self.table.notes:
            yield Text(f"· {note}", style="dim")

    def _width(self, cells: Sequence[Sequence[Any]], position: int) -> int:
        """Width of a column: its widest cell, or the longest word of its heading."""
        words = self.table.columns[position].heading.split()
        lines = (line for row in cells for line in row[position].plain.split("\n"))
        return max(map(len, [*words, *lines]))


def _blocks(widths: Sequence[int], available: int, gap: int = 2) -> Iterator[list[int]]:
    """Split columns so that each block, led by the first column, fits the width."""
    block, used = [0], widths[0]
    for position, width in enumerate(widths[1:], start=1):
        if used + gap + width > available and len(block) > 1:
            yield block
            block, used = [0], widths[0]
        block.append(position)
        used += gap + width
    yield block


def _terminal_text(value: str, interval: str, cell: Cell) -> Any:
    from rich.text import Text

    text = Text(value, style="bold" if cell.best else "")
    if cell.marks:
        text.append(f" {cell.marks}", style="cyan")
    if interval:
        text.append(f"\n{interval}", style="dim")
    return text


def _shown(cell: Cell, column: Column) -> str:
    letter = f" ({cell.letter})" if cell.letter else ""
    return _number(cell.value, column) + letter


def _number(value: float | str, column: Column) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "–"
    if column.name in P_COLUMNS and value < 0.0001:
        return "<0.0001"
    return _digits(value, column)


def _digits(value: float, column: Column) -> str:
    """Write a number with its decimals, without a sign where all of them are 0."""
    shown = f"{value:{'+' if column.signed else ''},.{column.decimals}f}"
    return shown if float(shown.replace(",", "")) else shown.lstrip("+-")


def _interval(cell: Cell, column: Column) -> str:
    """Write both bounds: half of the width around the value would be another interval."""
    if not _bounded(cell):
        return ""
    return f"[{_digits(cell.low, column)}, {_digits(cell.high, column)}]"


def _bounded(cell: Cell) -> bool:
    return math.isfinite(cell.low) and math.isfinite(cell.high)


def _markdown_escaped(text: str) -> str:
    text = plain(" ".join(text.split()))
    for sign in "\\`*_|<>[]&":
        text = text.replace(sign, f"\\{sign}")
    return text


def _markdown_row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": r"$-$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "·": r"$\cdot$",
    "α": r"$\alpha$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "×": r"$\times$",
}


def _latex_escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in plain(" ".join(text.split())))


def table_stem(table: Table) -> str:
    """Name the files of a table after its title."""
    return slug(table.title)


def slug(text: str) -> str:
    """Turn a text into a name for files and anchors."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
