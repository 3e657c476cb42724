"""What the OpenAPI document says of every endpoint alike: the shape of an error."""

from __future__ import annotations

from typing import Any

from tokenhub.apikit import CODES

_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}
_FIELDS = {
    "message": _TEXT,
    "type": _TEXT,
    "param": {**_MAYBE, "description": "The field that is wrong."},
    "code": {"type": "string", "description": "Stable. Among others: " + ", ".join(CODES)},
    "hint": {**_MAYBE, "description": "The next step."},
    "request_id": _MAYBE,
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": list(_FIELDS), "properties": _FIELDS}},
}


def add_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = _ERROR
    answer = {
        "description": "An error; its code is also in the header X-TokenHub-Error-Code.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = answer
    return result
