"""How a template becomes a page: what a name holds is text, and commands nobody."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.output.texts import plain
from bench.report.figures import DARK, LIGHT
from bench.report.table import Table


def rendered(template: str, **content: Any) -> str:
    """Fill in a template of `bench/report/templates`; return a self-contained HTML page.

    Signs that command a terminal or turn the direction of text are spelled out: pages are read in
    terminals and editors too.
    """
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = lambda image: (
        f"data:image/png;base64,{base64.b64encode(image).decode()}"
    )
    environment.filters["fragment"] = lambda item: Markup(
        item.html() if isinstance(item, Table) else item.inline()
    )
    colours = {"light": list(enumerate(LIGHT)), "dark": list(enumerate(DARK))}
    return plain(environment.get_template(template).render(**colours, **content))
