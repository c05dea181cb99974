"""Execute the notebooks in place, so that they show their outputs: `python docs/notebooks.py`."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

for path in sorted(Path(__file__).parent.glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # warnings name this machine's folders
    NotebookClient(notebook, record_timing=False).execute(env=quiet)
    notebook.metadata.pop("language_info", None)  # this machine's Python
    nbformat.write(notebook, path)
