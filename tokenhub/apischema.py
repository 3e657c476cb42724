"""What the OpenAPI document says of every endpoint alike: the shape of an error, the tag of a record, and the
rules that hold for every body."""

from __future__ import annotations

from typing import Any, Final

from tokenhub.apiexamples import EXAMPLES
from tokenhub.apikit import CODES

_TEXT: Final = {"type": "string"}
_MAYBE: Final = {"type": ["string", "null"]}
_FIELDS: Final[dict[str, Any]] = {
    "message": _TEXT,
    "type": _TEXT,
    "param": {**_MAYBE, "description": "The field that is wrong."},
    "code": {"type": "string", "description": "Stable. Among others: " + ", ".join(CODES)},
    "hint": {**_MAYBE, "description": "The next step."},
    "request_id": _MAYBE,
}
_ERRORS: Final = {
    "type": "array",
    "description": "Of an import: each item that is wrong.",
    "items": {
        "type": "object",
        "required": ["path", "message"],
        "properties": {"path": _TEXT, "message": _TEXT},
    },
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "object", "required": list(_FIELDS), "properties": {**_FIELDS, "errors": _ERRORS}},
    },
    "example": {
        "error": {
            "message": "weight: Ensure this value is less than or equal to 10.",
            "type": "invalid_request_error",
            "param": "weight",
            "code": "invalid_request",
            "hint": None,
            "request_id": "01a217b1-a61b-75f5-817f-f01ebdd0ad3d",
        }
    },
}
_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The ETag that was read: the change is refused (412) if somebody changed the record meanwhile.",
}
_TAG: Final = {"ETag": {"description": "Of this record, for If-Match.", "schema": {"type": "string"}}}
_DONE: Final = {"$ref": "#/components/schemas/Done"}
# what answers a record, or changes one, beside `{id}` itself
_RECORDS: Final = ("/routing-config", "/budget")
_NAMED: Final = {
    "/aliases/{id}": "^[A-Za-z0-9._:/@+-]{1,200}$",
    "/vault/secrets/{id}": "^[ -~]{1,260}$",
}
_UPSERTS: Final = ("/providers", "/models", "/prices", "/profiles", "/projects", "/apikeys", "/webhooks")
_NO_RECORD: Final = ("/discover", "/test", "/import-models", "/deliveries", "/logs/{id}")


def finish(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in schemas.items():
        if name.endswith("Request"):
            schema["additionalProperties"] = False
            for one in schema.get("properties", {}).values():
                _say_that_blanks_are_no_text(one)
    schemas["Error"] = _ERROR
    answer = {
        "description": "An error; its code is also in the header X-TokenHub-Error-Code.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            for place, pattern in _NAMED.items():
                if path.endswith(place):
                    operation["parameters"][0]["schema"]["pattern"] = pattern
            if (example := EXAMPLES.get((method, path.removeprefix("/admin/v1")))) is not None:
                operation["requestBody"]["content"]["application/json"]["example"] = example
            responses = operation["responses"]
            if "201" in responses:  # an upsert does not tell which it was
                responses["200"] = responses.pop("201")
            if "204" in responses:  # a DELETE says {"ok": true}
                responses.pop("204")
                responses["200"] = {"description": "", "content": {"application/json": {"schema": _DONE}}}
            responses["default"] = answer
            if _is_record(path, method):
                if method != "get":
                    operation.setdefault("parameters", []).append(_IF_MATCH)
                if method != "delete":
                    responses["200"]["headers"] = _TAG
    return result


def _is_record(path: str, method: str) -> bool:
    if path.endswith(_NO_RECORD):
        return False
    return "{" in path or path.endswith(_RECORDS) or (method == "post" and path.endswith(_UPSERTS))


def _say_that_blanks_are_no_text(schema: dict[str, Any]) -> None:
    """Texts are trimmed before they are looked at."""
    if schema.get("minLength") and "pattern" not in schema and "format" not in schema:
        schema["pattern"] = r"\S"
    if isinstance(schema.get("items"), dict):
        _say_that_blanks_are_no_text(schema["items"])
