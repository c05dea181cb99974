"""Typed configuration: what every kind of settings has in common, and its errors as sentences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, unknown

LONGEST_SHOWN = 100  # characters of a wrong value


class Settings(BaseModel):
    """Base of every typed configuration: unknown keys and numbers without end are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    """Validate settings as TOML holds them: a truth value or a text is no number.

    Raises BenchError for the first fault: one sentence that names key and value.
    """
    try:
        text = json.dumps(content, default=_plain)
        return model.model_validate_json(text, strict=True)
    except (TypeError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise BenchError(f"{where} cannot be read: {error}") from error
        raise _sentence(model, error, where) from error


def validated_objects(model: type[AnySettings], content: Any, where: str) -> AnySettings:
    """Validate Python's objects, say arrays, converted where the model's fields allow it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _sentence(model, error, where) from error


def _plain(value: Any) -> Any:
    """Spell a value that JSON has no form for; raises TypeError for dates and the like."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{value} is a {type(value).__name__}, which no setting is")


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> BenchError:
    """State the first fault in one sentence, an unknown key before all others."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    location, kind = faults[0]["loc"], faults[0]["type"]
    key = ".".join(str(part) for part in location if part != "[key]")
    if kind == "extra_forbidden":
        known = _keys_beside(model, location)
        return unknown(f"setting of {where}:", str(location[-1]), known)
    if kind == "missing":
        return BenchError(f"{where} does not say '{key}', which is needed")
    found = repr(faults[0]["input"])
    found = found if len(found) <= LONGEST_SHOWN else f"{found[:LONGEST_SHOWN]}…"
    told = f"{key} = {found}" if key else found
    return BenchError(f"{where}: {told} is not valid: {faults[0]['msg']}")


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Find the keys that the settings at `location` would have accepted."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return model.model_fields
