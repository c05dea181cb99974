"""The documentation site: `sphinx-build -W docs docs/_build`."""

import inspect
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import bench  # noqa: E402
from bench.plugins import registry  # noqa: E402

project = html_title = "compatible-training-bench"
author = "the contributors"
release = version = bench.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
nb_execution_mode = "off"  # shown as they were executed: docs/notebooks.py
nb_render_markdown_format = "gfm"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
suppress_warnings = ["ref.python"]  # several classes have a Config of their own
default_role = "code"  # docstrings quote code with single backticks


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
    """Teach Sphinx the index and the page of methods."""
    app.connect("source-read", complete)
