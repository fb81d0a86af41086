"""
Forms: what is asked for, the JSON Schema of its type, and whether a value fits it. So a wrong answer is refused before
it is stored, and who gave it is told what would do.

Only what schemas of annotations say is looked at; what is not understood is let pass, for the type itself is asked once
more by who awaits the value.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import msgspec

__all__ = ["Ask", "described", "example", "misfit", "schema_of"]

_KINDS: dict[str, Any] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "string": lambda v: isinstance(v, str),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}
_BOUNDS: tuple[tuple[str, Any, str], ...] = (
    ("minimum", lambda v, bound: v >= bound, "{} or more"),
    ("maximum", lambda v, bound: v <= bound, "{} or less"),
    ("exclusiveMinimum", lambda v, bound: v > bound, "more than {}"),
    ("exclusiveMaximum", lambda v, bound: v < bound, "less than {}"),
    ("minLength", lambda v, bound: len(v) >= bound, "{} characters or more"),
    ("maxLength", lambda v, bound: len(v) <= bound, "{} characters or fewer"),
    ("minItems", lambda v, bound: len(v) >= bound, "{} items or more"),
    ("maxItems", lambda v, bound: len(v) <= bound, "{} items or fewer"),
    ("pattern", lambda v, bound: re.search(bound, v) is not None, "like {}"),
)


def _hook(kind: type) -> dict[str, Any]:
    make = getattr(kind, "model_json_schema", None)
    if make is None:
        raise TypeError(kind)
    schema: dict[str, Any] = make()
    if "$defs" in schema:  # its references would not be found inside another schema
        return {"type": "object"}
    return schema


def schema_of(annotation: Any) -> bytes:
    """Return the JSON Schema of *annotation* as JSON, b"" if it allows anything or has none."""
    try:
        return _cached(annotation)
    except TypeError:  # an unhashable annotation
        return _schema(annotation)


def _schema(annotation: Any) -> bytes:
    if annotation is Any or annotation is object:
        return b""
    try:
        make = getattr(annotation, "model_json_schema", None)
        schema = make() if make is not None else msgspec.json.schema(annotation, schema_hook=_hook)
    except Exception:  # a type that only a decoder understands
        return b""
    return b"" if schema == {} else msgspec.json.encode(schema, order="sorted")


_cached = functools.lru_cache(maxsize=1024)(_schema)


def misfit(value: Any, schema: Any) -> str | None:
    """Return what is wrong with *value* (plain data as JSON holds it), None if nothing is. Values are not told."""
    return _misfit(value, schema, _defs(schema), "the value")


def _defs(schema: Any) -> dict[str, Any]:
    return schema.get("$defs", {}) if isinstance(schema, dict) else {}


def _referred(schema: dict[str, Any], defs: dict[str, Any]) -> Any:
    return defs.get(str(schema["$ref"]).rsplit("/", 1)[-1], {})


def _misfit(value: Any, schema: Any, defs: dict[str, Any], place: str) -> str | None:
    if not isinstance(schema, dict):
        return f"{place} is not allowed" if schema is False else None
    if "$ref" in schema:
        return _misfit(value, _referred(schema, defs), defs, place)
    if "anyOf" in schema:
        found = [_misfit(value, choice, defs, place) for choice in schema["anyOf"]]
        if None not in found:
            return found[0] if len(found) == 1 else f"{place} is none of what is allowed: {'; '.join(map(str, found))}"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_KINDS.get(kind, lambda _: True)(value) for kind in kinds):
        return f"{place} must be {_article(' or '.join(kinds))}, not {_article(_kind(value))}"
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        allowed = schema.get("enum", [schema.get("const")])
        return f"{place} must be one of {', '.join(map(repr, allowed))}"
    for name, holds, text in _BOUNDS:
        if name in schema and isinstance(value, str | list | int | float) and not _safely(holds, value, schema[name]):
            return f"{place} must be {text.format(schema[name])}"
    if isinstance(value, dict):
        return _misfit_object(value, schema, defs, place)
    if isinstance(value, list):
        return _misfit_array(value, schema, defs, place)
    return None


def _misfit_object(value: dict[str, Any], schema: dict[str, Any], defs: dict[str, Any], place: str) -> str | None:
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{place} lacks {', '.join(map(repr, missing))}"
    known = schema.get("properties", {})
    for name, item in value.items():
        rule = known.get(name, schema.get("additionalProperties", True))
        if (wrong := _misfit(item, rule, defs, f"{place}.{name}")) is not None:
            return wrong
    return None


def _misfit_array(value: list[Any], schema: dict[str, Any], defs: dict[str, Any], place: str) -> str | None:
    first = schema.get("prefixItems", [])
    for i, item in enumerate(value):
        rule = first[i] if i < len(first) else schema.get("items", True)
        if (wrong := _misfit(item, rule, defs, f"{place}[{i}]")) is not None:
            return wrong
    return None


def _safely(holds: Any, value: Any, bound: Any) -> bool:
    try:
        return bool(holds(value, bound))
    except TypeError:  # a bound of another kind of value
        return True


def _kind(value: Any) -> str:
    return (
        next(name for name, is_kind in _KINDS.items() if is_kind(value)) if _any_kind(value) else type(value).__name__
    )


def _any_kind(value: Any) -> bool:
    return any(is_kind(value) for is_kind in _KINDS.values())


def _article(text: str) -> str:
    return f"an {text}" if text[:1] in "aeiou" else f"a {text}"


def described(schema: Any) -> str:
    """Return what values *schema* allows, in a few words: string; {comment: string, budget?: integer}."""
    return _described(schema, _defs(schema), 4)


def _described(schema: Any, defs: dict[str, Any], depth: int) -> str:
    if not isinstance(schema, dict) or not depth:
        return "..."
    if "$ref" in schema:
        return _described(_referred(schema, defs), defs, depth)
    if "enum" in schema or "const" in schema:
        return " or ".join(_json(value) for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(_described(choice, defs, depth) for choice in schema["anyOf"])
    kinds = schema.get("type", "anything")
    if kinds == "object" and "properties" in schema:
        required = schema.get("required", ())
        parts = (
            f"{name}{'' if name in required else '?'}: {_described(rule, defs, depth - 1)}"
            for name, rule in schema["properties"].items()
        )
        return "{" + ", ".join(parts) + "}"
    if kinds == "array" and isinstance(schema.get("items"), dict):
        return f"[{_described(schema['items'], defs, depth - 1)}, ...]"
    return kinds if isinstance(kinds, str) else " or ".join(map(str, kinds))


def example(schema: Any) -> str:
    """Return the JSON of a value that *schema* allows, as far as it is understood."""
    return _json(_example(schema, _defs(schema), 5))


def _example(schema: Any, defs: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or not depth:
        return "..."
    if "$ref" in schema:
        return _example(_referred(schema, defs), defs, depth)
    if "default" in schema or "const" in schema or schema.get("enum"):
        return schema.get("default", schema.get("const", schema.get("enum", [None])[0]))
    if schema.get("anyOf"):
        return _example(schema["anyOf"][0], defs, depth)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        rules = schema.get("properties", {})
        return {name: _example(rules.get(name), defs, depth - 1) for name in schema.get("required", ())}
    return _EXAMPLES.get(str(kind), "...")


_EXAMPLES: dict[str, Any] = {"null": None, "boolean": True, "integer": 1, "number": 1.5, "array": []}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Ask(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """
    What is known of an open promise: `form` is the digest of its type's JSON Schema ("" = any value).

    With `outcomes` it is an approval, which people answer. Times are in ms: it is waited for since `since` (0 = nobody
    knows: an earlier release asked), at most until `until` (0 = for ever).
    """

    form: str = ""
    outcomes: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    assignees: tuple[str, ...] = ()
    since: int = 0
    escalates: int = 0
    until: int = 0
