"""Values that several commands take: JSON objects, `key=value` pairs."""

from __future__ import annotations

import json
from typing import Any

import click


class JsonObject(click.ParamType[dict[str, Any]]):
    """An argument that is one JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            found = json.loads(value)
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
            return key, json.loads(text)
        except (ValueError, RecursionError):
            return key, text
