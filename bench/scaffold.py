"""Starts a new method: a working file of about fifteen lines with the parts to fill in."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from bench import registry
from bench.errors import BenchError

TEMPLATE = '''\
"""One line that says what {name} does: `python -m bench list methods` shows it.

The formula, where it comes from, and where this file deviates.
"""

from __future__ import annotations

from torch import Tensor

from bench.protocol import Step
from bench.settings import Settings, tunable
from methods._old_space import ComparesWithOld


class {class_name}(ComparesWithOld):
    """New embeddings [B, Dn] are mapped to the old width where widths differ."""

    class Config(Settings):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the term")  # 1: settings

    def loss(self, step: Step) -> dict[str, Tensor]:
        similarity = (self.in_old_space(step.new) * step.old).sum(1)  # 2: compare new with old
        return {{"{name}": self.config.weight * (1 - similarity).mean()}}  # 3: a named scalar
'''


def new_method(name: str, folder: Path | None = None) -> Path:
    """Write the file of a new method, `methods/NAME.py`, which is discovered at once.

    Raises BenchError for a name that is no module name, that is taken, or whose file exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BenchError(
            f"'{name}' cannot name a method; use lower-case letters, digits and underscores, "
            "beginning with a letter, as in 'my_idea'"
        )
    path = (folder or registry.ROOT / "methods") / f"{name}.py"
    if path.exists() or name in registry.discover("methods"):
        raise BenchError(f"there is a method '{name}' already; choose another name")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    path.write_text(TEMPLATE.format(name=name, class_name=class_name))
    return path
