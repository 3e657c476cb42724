"""An instance for a JSON schema, for the sandbox's tool calls and structured answers. Pure. `pattern` is ignored: a
client's regular expression must not run here."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

MAX_DEPTH = 8
MAX_NODES = 2_000
MAX_STRING = 2_000
_FORMATS = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_BY_KEYWORD = {"properties": "object", "required": "object", "items": "array", "prefixItems": "array"}


def instance_of(schema: Any) -> Any:
    """A value that satisfies the schema. Of what has no finite instance, or a huge one, it is the outline."""
    return _Generator(schema).value(schema, "value", 0)


class _Generator:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 0

    def value(self, schema: Any, name: str, depth: int) -> Any:
        self._nodes += 1
        if not isinstance(schema, dict) or depth > 2 * MAX_DEPTH or self._nodes > MAX_NODES:
            return None if schema is False or isinstance(schema, dict) else f"sandbox {name}"
        schema = self._flat(schema)
        if "const" in schema:
            return schema["const"]
        for ready in ("enum", "examples"):
            if isinstance(schema.get(ready), list) and schema[ready]:
                return schema[ready][0]
        if "default" in schema:
            return schema["default"]
        for union in ("anyOf", "oneOf"):
            variants = schema.get(union)
            if isinstance(variants, list) and variants:
                rest = {key: value for key, value in schema.items() if key != union}
                return self.value(_merged(rest, self._flat(self._variant(variants, depth))), name, depth + 1)
        match _type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number" as kind:
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
        return _string(schema, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        if not names and depth < MAX_DEPTH // 2:
            names = list(properties)
        extra = schema.get("additionalProperties", True)
        return {
            name: self.value(properties.get(name, extra), name, depth + 1)
            for name in names
            if self._nodes < MAX_NODES or name in properties
        }

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems")
        values = [self.value(one, name, depth + 1) for one in prefix] if isinstance(prefix, list) else []
        least = _bound(schema, "minItems", 0 if depth >= MAX_DEPTH or values else 1)
        most = _bound(schema, "maxItems", MAX_NODES)
        items = schema.get("items", True)
        unique = schema.get("uniqueItems") is True
        while len(values) < min(least, most) and self._nodes < MAX_NODES and items is not False:
            value = self.value(items, name, depth + 1)
            values.append(_distinct(value, items, len(values)) if unique else value)
        return values

    def _flat(self, schema: Any) -> dict[str, Any]:
        """The schema with its local references followed and its `allOf` merged."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict):
                return {}
            if isinstance(reference := schema.get("$ref"), str):
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                target = self._resolve(reference)
                schema = _merged(target, rest) if isinstance(target, dict) else rest
            elif isinstance(parts := schema.get("allOf"), list):
                schema = {key: value for key, value in schema.items() if key != "allOf"}
                for part in parts[:32]:
                    schema = _merged(schema, part) if isinstance(part, dict) else schema
            else:
                return schema
        return schema if isinstance(schema, dict) else {}

    def _resolve(self, reference: str) -> Any:
        found = self._root
        if not reference.startswith("#"):
            return None
        for step in unquote(reference[1:]).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and step.isdecimal() and len(step) < 6 and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict) and step in found:
                found = found[step]
            else:
                return None
        return found

    def _variant(self, variants: list[Any], depth: int) -> Any:
        """The first one; deep inside a recursive schema, the first that ends the recursion."""
        if depth >= MAX_DEPTH:
            for variant in variants:
                if isinstance(variant, dict) and "$ref" not in variant and _type_of(variant) not in {"object", "array"}:
                    return variant
        return variants[0]


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both schemas at once; of what they both say, `other` counts, save that properties and required add up."""
    merged = {**one, **other}
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        merged["properties"] = {**one["properties"], **other["properties"]}
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        merged["required"] = [*one["required"], *(name for name in other["required"] if name not in one["required"])]
    return merged


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    return next((implied for keyword, implied in _BY_KEYWORD.items() if keyword in schema), "string")


def _bound(schema: dict[str, Any], keyword: str, otherwise: int) -> int:
    value = schema.get(keyword)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return int(value)
    return otherwise


def _limit(schema: dict[str, Any], keyword: str) -> float | None:
    value = schema.get(keyword)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if usable else None


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    step = _limit(schema, "multipleOf") or 0
    if step <= 0 or (whole and step < 1):
        step = 1 if whole else 0
    low, high = _limit(schema, "minimum"), _limit(schema, "maximum")
    above, below = _limit(schema, "exclusiveMinimum"), _limit(schema, "exclusiveMaximum")
    if above is not None and (low is None or above >= low):
        low = above + (step or _gap(above, below if below is not None else high))
    if below is not None and (high is None or below <= high):
        high = below - (step or _gap(low, below))
    value: float = 1
    if low is not None and value < low:
        value = low
    elif high is not None and value > high:
        value = high
    if step:
        multiples = value // step
        value = multiples * step
        if low is not None and value < low:
            value = (multiples + 1) * step
    return int(value) if whole else value


def _gap(low: float | None, high: float | None) -> float:
    return (high - low) / 2 if low is not None and high is not None and high > low else 1


def _string(schema: dict[str, Any], name: str) -> str:
    kind = schema.get("format")
    text = _FORMATS.get(kind, f"sandbox {name}") if isinstance(kind, str) else f"sandbox {name}"
    text = text.ljust(min(_bound(schema, "minLength", 0), MAX_STRING), ".")
    return text[: _bound(schema, "maxLength", MAX_STRING)]


def _distinct(value: Any, items: Any, index: int) -> Any:
    """The `index`th of values that must differ."""
    if isinstance(items, dict) and isinstance(choices := items.get("enum"), list) and choices:
        return choices[index % len(choices)]
    if isinstance(value, bool) or index == 0:
        return value
    if isinstance(value, int | float):
        return value + index
    return f"{value} {index + 1}" if isinstance(value, str) else value
