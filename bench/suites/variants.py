"""Variants of a suite: other settings, another name, so that results live side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from bench.storage.digest import digest
from bench.storage.results import dataset_label
from bench.suites.loading import compose
from bench.suites.schema import LONGEST_NAME, Suite

# They choose which runs of a suite are made, not how.
CHOICES = {"name", "summary", "scenarios", "methods", "seeds"}
DIGITS = 6


def compose_variant(
    content: dict[str, Any],
    assignments: Iterable[str] = (),
    given: Iterable[str] = (),
    places: Collection[str] = (),
    **chosen: Any,
) -> Suite:
    """Compose a suite and, where it is not made as `content` says, name it after the differences.

    `given` are settings that every run of this kind has, unless `assignments` say otherwise, and no
    name shows; `places` names options of a dataset that say where it is, not what is in it. Raises
    BenchError as `compose` does.
    """
    given, assignments = list(given), list(assignments)
    lacking = {
        key: value
        for key, value in chosen.items()
        if value is not None and Suite.model_fields[key].is_required()
    }
    plain = compose({**lacking, **content}, given)
    own = {each.partition("=")[0] for each in assignments}
    kept = [each for each in given if each.partition("=")[0] not in own]
    suite = compose(content, [*kept, *assignments], **chosen)
    return suite.model_copy(update={"name": variant_name(plain, suite, places)})


def variant_name(plain: Suite, suite: Suite, places: Collection[str] = ()) -> str:
    """Name a suite after what it sets differently from `plain`: `default+epochs=5`.

    Different settings have different names: one that had to be shortened ends in a digest.
    """
    before, now = _flat(plain, places), _flat(suite, places)
    changes = {
        key: now.get(key, "unset")
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    }
    values = {key: _text(value) for key, value in changes.items()}
    name, exact = (
        "+".join([plain.name, *(f"{key}={told(value)}" for key, value in values.items())])
        for told in (_safe, str)
    )
    if name == exact and len(name) <= LONGEST_NAME:
        return name
    mark = digest(changes)[:DIGITS]
    return f"{name[: LONGEST_NAME - DIGITS - 1].rstrip('.+=,-')}+{mark}"


def _flat(suite: Suite, places: Collection[str]) -> dict[str, Any]:
    """Settings by the names that `--set` has for them."""
    content = suite.model_dump(mode="json", exclude=CHOICES)
    recipe, sides, options = (content.pop(key) for key in ("recipe", "sides", "options"))
    dataset = suite.dataset.partition(":")[0]
    content["dataset"] = dataset_label(suite.dataset)
    nested = {**sides, **options}
    return {
        **content,
        **recipe,
        **{
            f"{group}.{key}": value
            for group, settings in nested.items()
            for key, value in settings.items()
            if not (group == dataset and key in places)
        },
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return json.dumps(value, sort_keys=True).replace("e+", "e")  # of a number; + parts settings


def _safe(text: str) -> str:
    """Reduce a value to what may stand in a folder's name; of a path, to its last part."""
    return re.sub(r"[^\w.=,-]+|\.(?=\.|$)", "-", text.rstrip("/").rpartition("/")[2])
