"""Kubernetes manifests against the schemas in ``kubernetes_schemas.json``: unknown fields, wrong types, missing fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFINITIONS = json.loads(Path(__file__).with_name("kubernetes_schemas.json").read_text())["$defs"]
KINDS = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def faults(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with one manifest."""
    kind = manifest.get("kind", "")
    return list(_faults(manifest, DEFINITIONS[kind], kind)) if kind in DEFINITIONS else [f"kind {kind!r} is not known"]


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, KINDS[kind])


def _faults(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from _faults(value, DEFINITIONS[schema["$ref"].rpartition("/")[2]], at)
    if "oneOf" in schema and sum(not list(_faults(value, choice, at)) for choice in schema["oneOf"]) != 1:
        yield f"{at}: {value!r} is none of {schema['oneOf']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    kinds = schema.get("type")
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{at}: {value!r} is no {kinds}"
    elif isinstance(value, dict):
        yield from _object_faults(value, schema, at)
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _faults(item, schema["items"], f"{at}[{number}]")


def _object_faults(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at}: {name} is missing"
    for name, part in value.items():
        if name in known:
            yield from _faults(part, known[name], f"{at}.{name}")
        elif other is False:
            yield f"{at}: there is no field {name}"
        elif isinstance(other, dict):
            yield from _faults(part, other, f"{at}.{name}")
