"""Values that several commands take: JSON objects, `key=value` pairs."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click


def decode(text: str) -> Any:
    """Decode JSON as RFC 8259 has it: no NaN, no infinities, and no key twice in one object.

    Raises:
        ValueError: it is something else; RecursionError: it is nested too deep.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_twins)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; of two values under one key the decoder would silently keep the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twin = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twin!r} is given twice")
    return made


class JsonObject(click.ParamType[dict[str, Any]]):
    """An argument that is one JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            found = decode(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"is not JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail('must be a JSON object, such as {"lang": "en"}', param, ctx)
        return found


class KeyValue(click.ParamType[tuple[str, Any]]):
    """An argument `key=value`; a value that is JSON is taken as such, anything else is text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"must be KEY=VALUE, not {value!r}", param, ctx)
        try:
            return key, decode(text)
        except (ValueError, RecursionError):
            return key, text
