"""One table object → terminal, CSV, Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType

P_COLUMNS = ("p", "p (Holm)")
ARROWS = {1: "↑", -1: "↓", 0: ""}


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    `value` is a number or a text; `low` and `high` bound it where they are finite; `marks` is a
    superscript and `beats` the methods that it stands for; `best` is set in bold.
    """

    value: float | str
    low: float = math.nan
    high: float = math.nan
    marks: str = ""
    beats: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its name, how many decimals its numbers have, and what is better (+1, −1, 0)."""

    name: str
    decimals: int = 3
    better: int = 0

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
        """Yield each row as (value, ± half width or nothing, cell)."""
        for row in self.rows:
            yield [
                (_number(cell.value, column), _half_width(cell, column), cell)
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

    def csv(self) -> str:
        """Comma-separated values with all digits."""
        return str(self.frame().to_csv(index=False))

    def rich(self) -> RenderableType:
        """Return what a terminal shows: as many blocks of columns as its width requires."""
        return _Terminal(self)

    def markdown(self) -> str:
        """GitHub's Markdown; superscripts as HTML, which it allows."""

        def text(value: str, half: str, cell: Cell) -> str:
            shown = _markdown_escaped(value)
            shown = f"**{shown}**" if cell.best else shown
            shown += f"<sup>{cell.marks}</sup>" if cell.marks else ""
            return f"{shown} ±{half}" if half else shown

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

    def latex(self) -> str:
        """LaTeX for booktabs and graphicx (wide tables are shrunk to the line)."""

        def text(value: str, half: str, cell: Cell) -> str:
            shown = _latex_escaped(value)
            shown = rf"\textbf{{{shown}}}" if cell.best else shown
            shown += rf"\textsuperscript{{{cell.marks}}}" if cell.marks else ""
            return rf"{shown} {{\scriptsize$\pm${half}}}" if half else shown

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
        """Return an HTML fragment; names are escaped, bounds stand in the title of each cell."""

        def text(value: str, half: str, cell: Cell) -> str:
            shown = html.escape(value)
            shown = f"<strong>{shown}</strong>" if cell.best else shown
            shown += f"<sup>{html.escape(cell.marks)}</sup>" if cell.marks else ""
            return f'{shown} <span class="half">±{half}</span>' if half else shown

        heads = "".join(f'<th scope="col">{html.escape(c.heading)}</th>' for c in self.columns)
        rows = []
        for row in self.texts():
            (name, _, first), *others = row
            mark = f" <sup>{html.escape(first.marks)}</sup>" if first.marks else ""
            cells = "".join(f"<td{_cell_title(e[2])}>{text(*e)}</td>" for e in others)
            rows.append(f'<tr><th scope="row">{html.escape(name)}{mark}</th>{cells}</tr>')
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            f'<figure class="table"><div class="scroll" tabindex="0" role="region" '
            f'aria-label="{html.escape(self.title)}"><table>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
            f"<figcaption><p>{html.escape(self.caption)}</p>"
            f"{f'<ul>{notes}</ul>' if notes else ''}</figcaption></figure>"
        )


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


def _terminal_text(value: str, half: str, cell: Cell) -> Any:
    from rich.text import Text

    text = Text(value, style="bold" if cell.best else "")
    if cell.marks:
        text.append(f" {cell.marks}", style="cyan")
    if half:
        text.append(f"\n±{half}", style="dim")
    return text


def _number(value: float | str, column: Column) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "–"
    if column.name in P_COLUMNS and value < 0.0001:
        return "<0.0001"
    return f"{value:,.{column.decimals}f}"


def _half_width(cell: Cell, column: Column) -> str:
    return f"{(cell.high - cell.low) / 2:.{column.decimals}f}" if _bounded(cell) else ""


def _bounded(cell: Cell) -> bool:
    return math.isfinite(cell.low) and math.isfinite(cell.high)


def _cell_title(cell: Cell) -> str:
    parts = [f"{cell.low:.4f} to {cell.high:.4f}"] if _bounded(cell) else []
    parts += [f"beats {', '.join(cell.beats)}"] if cell.beats else []
    return f' title="{html.escape("; ".join(parts))}"' if parts else ""


def _markdown_escaped(text: str) -> str:
    for sign in "\\`*_|<>[]":
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
    "±": r"$\pm$",
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
    return "".join(_LATEX.get(sign, sign) for sign in text)
