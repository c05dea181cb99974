"""How help looks: options in groups, words for what they take, examples to paste."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_type_hints

from typer import Typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

# What an option takes, by the name that Typer has for it; a flag takes nothing.
WORDS = {
    "<int>": "N",
    "<int range>": "N",
    "<float>": "NUMBER",
    "<float range>": "NUMBER",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<path>": "PATH",
}


class _InWords:
    """Names what options take in words instead of types, `--help` included."""

    def get_params(self, ctx: Any) -> Any:
        """Return all parameters."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            if getattr(each, "is_flag", False):
                each.metavar = ""
            elif each.metavar is None and isinstance(each, TyperOption):
                each.metavar = WORDS.get(str(each.display_type(ctx)))
        return params


class Command(_InWords, TyperCommand):
    """A command with such help."""


class Group(_InWords, TyperGroup):
    """The program with such help."""


def command(app: Typer, name: str, *examples: str) -> Callable[[Callable[..., None]], Any]:
    """Add a command to the program, with examples of its use below its help."""
    lines = "\n".join(f"python -m bench {name} {each}".rstrip() for each in examples)
    epilog = f"Examples:\n```\n{lines}\n```" if examples else None
    return app.command(name, cls=Command, epilog=epilog)


def in_groups(
    groups: dict[str, Collection[str]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put parameters of a command into named groups of its help: names by group."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        for group, names in groups.items():
            for name in names:
                option_of(hints[name]).rich_help_panel = group
        function.__annotations__ = hints
        return function

    return decorate


def option_of(hint: Any) -> OptionInfo:
    """Return the option that an annotation describes."""
    return next(each for each in hint.__metadata__ if isinstance(each, OptionInfo))
