"""Typed configuration: what every kind of settings has in common, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, unknown

LONGEST_SHOWN = 100  # characters of a wrong value


class Settings(BaseModel):
    """Base of every typed configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def tunable(
    default: float,
    low: float,
    high: float,
    *,
    log: bool = True,
    description: str | None = None,
    **constraints: Any,
) -> Any:
    """Make a field that `python -m bench tune` searches in [low, high], by default log-uniformly.

    Raises ValueError for a range that is empty or does not hold the default.
    """
    if not low <= default <= high or low == high or (log and low <= 0):
        raise ValueError(f"[{low}, {high}] is no range to search around the default {default}")
    search = {"low": low, "high": high, "log": log}
    extra: Any = {"search": search}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def tunable_choice(default: str, choices: Sequence[str], description: str | None = None) -> Any:
    """Make a field for which `python -m bench tune` tries each of the choices."""
    if default not in choices:
        raise ValueError(f"the default {default!r} is none of the choices {list(choices)}")
    extra: Any = {"search": {"choices": list(choices)}}
    return Field(default, description=description, json_schema_extra=extra)


def search_space(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return what the tunable fields declare, by field: `low`, `high` and `log`, or `choices`."""
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    return {
        name: dict(extra["search"])  # type: ignore[arg-type]
        for name, extra in extras.items()
        if isinstance(extra, dict) and "search" in extra
    }


AnySettings = TypeVar("AnySettings", bound=Settings)


def validated(model: type[AnySettings], content: dict[str, Any], where: str) -> AnySettings:
    """Validate settings, turning the first fault into one sentence that names key and value."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        location, kind = faults[0]["loc"], faults[0]["type"]
        key = ".".join(str(part) for part in location)
        if kind == "extra_forbidden":
            known = _keys_beside(model, location)
            raise unknown(f"setting of {where}:", str(location[-1]), known) from error
        if kind == "missing":
            raise BenchError(f"{where} does not say '{key}', which is needed") from error
        found = repr(faults[0]["input"])
        found = found if len(found) <= LONGEST_SHOWN else f"{found[:LONGEST_SHOWN]}…"
        told = f"{key} = {found}" if key else found
        raise BenchError(f"{where}: {told} is not valid: {faults[0]['msg']}") from error


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Find the keys that the settings at `location` would have accepted."""
    for part in location[:-1]:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return model.model_fields
