"""Starts a new method, a loss or a bridge: a short working file with the parts to fill in."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Literal

from bench.errors import BenchError
from bench.plugins import registry
from bench.storage.files import write_text

LOSS = '''\
"""One line that says what {name} does: `python -m bench list methods` shows it.

The formula, where it comes from, and where this file deviates.
"""

from __future__ import annotations

from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class {class_name}(ComparesWithOld):
    """New embeddings [B, Dn] are mapped to the old width where widths differ."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the term")  # 1: settings

    def loss(self, step: Step) -> dict[str, Tensor]:
        similarity = (self.in_old_space(step.new) * step.old).sum(1)  # 2: compare new with old
        return {{"{name}": self.config.weight * (1 - similarity).mean()}}  # 3: a named scalar
'''


BRIDGE = '''\
"""One line that says what {name} does: `python -m bench list methods` shows it.

The formula, where it comes from, and where this file deviates.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.protocol import Context, Method, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import Settings, tunable


class {class_name}(Method):
    """Items that are not yet backfilled are asked in the old space, by a linear map."""

    trains: ClassVar[bool] = False
    query_encodings, searches = 1, 2  # of a query while items of both kinds are there

    class Config(Settings):
        ridge: float = tunable(1e-3, 1e-6, 1.0, gt=0, description="of least squares")  # 1: settings

    matrix: Tensor

    def prepare(self, context: Context) -> None:
        shape = (context.new_width, context.old_width)
        self.register_buffer("matrix", torch.zeros(shape))  # 2: all that `fit` learns

    def fit(self, bank: PairedEmbeddings) -> None:
        square = bank.new.T @ bank.new  # 3: of images [N, Dn] with `bank.old` [N, Do]
        square.diagonal().add_(self.config.ridge)
        self.matrix.copy_(torch.linalg.solve(square, bank.new.T @ bank.old))

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        return view.new @ self.matrix if state == "old" else view.new  # 4: what meets such items
'''
TEMPLATES = {"loss": LOSS, "bridge": BRIDGE}


def new_method(
    name: str, folder: Path | None = None, kind: Literal["loss", "bridge"] = "loss"
) -> Path:
    """Write the file of a new method, `methods/NAME.py`, which is discovered at once.

    A loss trains the new model, a bridge is fitted between two models as they are. Raises
    BenchError for a name that is no module name or that is taken, and where the harness is
    installed without its sources: the next installation would remove the file.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BenchError(
            f"'{name}' cannot name a method; use lower-case letters, digits and underscores, "
            "beginning with a letter, as in 'my_idea'"
        )
    if folder is None and not (registry.ROOT / "pyproject.toml").is_file():
        raise BenchError(
            f"a method here would be written into the installed package, {registry.ROOT}, and lost "
            "with the next installation; run this in a clone installed with `pip install -e .`, or "
            "give a package of your own an entry point in the group 'bench.methods'"
        )
    path = (folder or registry.ROOT / "methods") / f"{name}.py"
    if path.exists() or name in registry.discover("methods"):
        raise BenchError(f"there is a method '{name}' already; choose another name")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    write_text(path, TEMPLATES[kind].format(name=name, class_name=class_name))
    return path
