"""The documentation site: `sphinx-build -W docs docs/_build`."""

import inspect
import json
import sys
from pathlib import Path

from myst_parser.parsers.sphinx_ import MystParser

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import bench  # noqa: E402
from bench.plugins import registry  # noqa: E402

project = html_title = "compatible-training-bench"
author = "the contributors"
release = version = bench.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
source_suffix = {".md": "markdown", ".ipynb": "notebook"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_copy_source = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
suppress_warnings = ["ref.python"]  # several classes have a Config of their own
default_role = "code"  # docstrings quote code with single backticks


class Notebook(MystParser):
    """Reads a notebook as the page that its cells make."""

    supported = ("notebook",)

    def parse(self, inputstring, document):
        """Parse the text of the cells, code as code."""
        super().parse("\n\n".join(map(_cell, json.loads(inputstring)["cells"])), document)


def _cell(cell):
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"


def complete(app, docname, source):
    """List every page in the index, and put every method's docstring into the page of methods."""
    if docname == "index":
        listed = {line.partition(".")[0] for line in source[0].splitlines()}
        further = sorted({path.stem for path in HERE.glob("*.md")} - {*listed, "index"})
        source[0] = source[0].replace("FURTHER", "\n".join(further))
    if docname == "methods":
        found = registry.discover("methods").items()
        listed = "\n\n".join(_method(name, plugin) for name, plugin in found)
        source[0] = source[0].replace("<!-- every method -->", listed)


def _method(name, plugin):
    """Return a method's section: title, module docstring, settings with their defaults."""
    kind = registry.method_class(name)
    text = inspect.cleandoc(sys.modules[kind.__module__].__doc__)
    settings = [
        f"| `{key}` | `{field.default}` | {field.description or ''} |"
        for key, field in kind.Config.model_fields.items()
    ]
    head = ["| setting | default | |", "|---|---|---|"] if settings else []
    return "\n".join([f"## {name}", "", text, "", *head, *settings])


def setup(app):
    """Teach Sphinx notebooks and the page of methods."""
    app.add_source_parser(Notebook)
    app.connect("source-read", complete)
