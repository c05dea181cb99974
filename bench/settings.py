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
        fault = error.errors()[0]
        if fault["type"] == "extra_forbidden":
            known = _keys_beside(model, fault["loc"])
            raise unknown(f"setting of {where}:", str(fault["loc"][-1]), known) from error
        key = ".".join(str(part) for part in fault["loc"])
        raise BenchError(
            f"{where}: {key} = {fault['input']!r} is not valid: {fault['msg']}"
        ) from error


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Find the keys that the settings at `location` would have accepted."""
    for part in location[:-1]:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return model.model_fields
