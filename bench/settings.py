"""Typed configuration: what every kind of settings has in common, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError, unknown


class Settings(BaseModel):
    """Base of every typed configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
        raise BenchError(
            f"{where}: {key} = {faults[0]['input']!r} is not valid: {faults[0]['msg']}"
        ) from error


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Find the keys that the settings at `location` would have accepted."""
    for part in location[:-1]:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return model.model_fields
