"""Suites, scenarios and recipes: what is to be compared, as typed settings read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from bench.errors import BenchError, unknown
from bench.settings import validated
from bench.suites.schema import Recipe, Scenario, Suite

SUITES = Path(__file__).parent


def load_scenarios() -> dict[str, Scenario]:
    """Every scenario that `suites/scenarios.toml` defines, by name."""
    content = _read(SUITES / "scenarios.toml")
    return {
        name: validated(Scenario, table, f"scenario '{name}'") for name, table in content.items()
    }


def suite_names() -> list[str]:
    """Names of the suites that come with the harness."""
    return sorted(path.stem for path in SUITES.glob("*.toml") if path.stem != "scenarios")


def load_suite(name: str, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a suite by its name or by the path of a TOML file, not yet validated.

    A suite that says `extends = NAME` has what that one says, but for what it says itself. Raises
    BenchError for what is no suite, and for suites that extend each other in a circle.
    """
    if name.endswith(".toml"):
        path = Path(name)
    elif name in suite_names():
        path = SUITES / f"{name}.toml"
    else:
        raise unknown("suite", name, suite_names())
    content = _read(path)
    if "name" in content:
        raise BenchError(f"{path} says 'name', yet a suite has the name of its file; leave it out")
    base: dict[str, Any] = {}
    if (extended := content.pop("extends", None)) is not None:
        if not isinstance(extended, str):
            raise BenchError(f"{path}: extends = {extended!r} is no name of a suite")
        if path in extended_by:
            raise BenchError(f"{path} extends itself, by way of {extended}; end the circle")
        base = load_suite(extended, (*extended_by, path))
    for key in ("recipe", "options"):
        content[key] = {**_table(base, key), **_table(content, key)}
    return {**base, **content, "name": path.stem}


def compose(content: dict[str, Any], assignments: Iterable[str] = (), **chosen: Any) -> Suite:
    """Make a suite of TOML content, the command line's choices and its `key=value` settings.

    A key is a suite's or a recipe's own (`epochs=5`), or dotted: `recipe.KEY`, `old.KEY` or
    `new.KEY` for the recipe of one side, `METHOD.KEY`, `DATASET.KEY`. Raises BenchError for
    unknown keys (with the nearest name), wrong values, settings of what is not run, and what is
    given twice, of which one would not be used.
    """
    chosen = {key: value for key, value in chosen.items() if value is not None}
    content = {**content, **chosen}
    recipe = dict(_table(content, "recipe"))
    options, sides = (_tables(_table(content, key)) for key in ("options", "sides"))
    assigned = set[str]()
    given = _each_once(assignments, "recipe", chosen)
    # A table of sides replaces what the suite says, so single settings of a side come after it.
    for key, value in sorted(given, key=lambda pair: pair[0] != "sides"):
        group, dot, inner = key.partition(".")
        if dot and group in ("old", "new"):
            sides.setdefault(group, {})[inner] = value
        elif key == "sides":
            sides |= _tables(_table({key: value}, key))
        elif dot and group != "recipe":
            options.setdefault(group, {})[inner] = value
            assigned.add(group)
        elif (inner if dot else key) in Recipe.model_fields:
            recipe[inner if dot else key] = value
        elif key in Suite.model_fields and key not in {"recipe", "options", "name"}:
            content[key] = value
        else:
            raise unknown("setting", key, [*Recipe.model_fields, *Suite.model_fields])
    content |= {"recipe": recipe, "options": options, "sides": sides}
    suite = validated(Suite, content, f"suite '{content['name']}'")
    used = {*suite.methods, suite.dataset.partition(":")[0]}
    for name in sorted(assigned - used):
        raise unknown("method or dataset of this run", name, used)
    return suite


def read_assignments(assignments: Iterable[str], owner: str) -> dict[str, Any]:
    """Read `key=value` or `OWNER.key=value` settings of one plug-in, each given once."""
    return {
        key.removeprefix(f"{owner}."): value for key, value in _each_once(assignments, owner, ())
    }


def _each_once(
    assignments: Iterable[str], owner: str, taken: Collection[str]
) -> list[tuple[str, Any]]:
    """Read settings; raises BenchError for one that is `taken` or given twice, in any spelling."""
    read = [(key, _value(text)) for key, text in map(_split, assignments)]
    keys = [*taken, *(name for key, value in read for name in _names(key, value, owner))]
    for key in keys:
        if keys.count(key) > 1:
            raise BenchError(f"the setting '{key}' is given twice; give it once")
    return read


def _names(key: str, value: Any, owner: str) -> list[str]:
    """Return the name of each setting in `key=value`: a table of sides holds several."""
    if key != "sides" or not isinstance(value, dict):
        return [key.removeprefix(f"{owner}.")]
    tables = {side: inner if isinstance(inner, dict) else {} for side, inner in value.items()}
    return [key, *(f"{side}.{inner}" for side, table in tables.items() for inner in table)]


def _split(assignment: str) -> tuple[str, str]:
    key, equals, text = assignment.partition("=")
    if not equals:
        raise BenchError(f"--set {assignment} has no '='; write --set key=value")
    return key, text


def _value(text: str) -> Any:
    """Read a value as TOML does; what is not TOML is a string."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of TOML content, an empty one where there is none."""
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise BenchError(
            f"{key} = {found!r} is a {type(found).__name__}, expected a table of settings"
        )
    return found


def _tables(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(_table(content, name)) for name in content}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read as TOML: {error}") from error
