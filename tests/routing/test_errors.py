from __future__ import annotations

import ast
from pathlib import Path

import pytest

from keys import auth
from providers.formats import anthropic_wire
from routing.errors import CODES, ApiError

# section 1.6 of the HTTP contract
CONTRACT = """
| 400 | `invalid_json`, `invalid_request`, `invalid_directive`, `unsupported_parameter`, `context_length_exceeded`, `upstream_rejected` |
| 401 | `missing_api_key`, `invalid_api_key`, `expired_api_key`, `disabled_api_key` |
| 403 | `scope_not_allowed`, `model_not_allowed`, `wrong_password` |
| 404 | `model_not_found`, `not_found` |
| 409 | `idempotency_conflict` |
| 413 | `request_too_large` |
| 422 | `output_schema_mismatch` |
| 429 | `rate_limit_exceeded`, `budget_exceeded`, `upstream_rate_limited` |
| 502 | `upstream_error`, `all_models_failed`, `no_eligible_models` |
| 503 | `vault_locked`, `no_models_configured`, `accounting_unavailable`, `overloaded` |
| 504 | `upstream_timeout` |
"""  # noqa: E501  a copy
NOT_YET = {"idempotency_conflict", "output_schema_mismatch"}
"""Codes of features that this version does not have."""
ADMIN_ONLY = {"wrong_password"}
BEYOND = {"method_not_allowed": 405, "request_timeout": 408, "internal_error": 500}
"""Codes for what the contract leaves to HTTP itself."""


def contract() -> dict[str, int]:
    found = {}
    for line in CONTRACT.strip().splitlines():
        _, status, codes, _ = line.split("|")
        found.update({code.strip(" `"): int(status) for code in codes.split(",")})
    return found


def test_codes_and_statuses_are_the_contracts() -> None:
    expected = {code: status for code, status in contract().items() if code not in NOT_YET | ADMIN_ONLY} | BEYOND
    assert {code: status for code, (status, _) in CODES.items() if code not in NOT_YET} == expected


def test_a_code_that_is_no_longer_missing_has_the_contracts_status() -> None:
    assert {code: CODES[code][0] for code in NOT_YET & CODES.keys()} == {
        code: contract()[code] for code in NOT_YET & CODES.keys()
    }


def raised_codes(path: Path) -> set[str]:
    """The first argument of every ApiError and AuthError in a module, where it is written out."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and node.args]
    names = [call.args[0] for call in calls if getattr(call.func, "id", "") in {"ApiError", "AuthError"}]
    return {name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)}


def test_every_code_that_is_raised_is_in_the_table() -> None:
    root = Path(__file__).resolve().parents[2]
    modules = [*(root / "routing").glob("*.py"), Path(auth.__file__)]
    raised = set().union(*map(raised_codes, modules))
    assert raised <= CODES.keys()
    assert len(raised) > 15


@pytest.mark.parametrize("code", CODES)
def test_a_code_carries_its_status_and_type(code: str) -> None:
    error = ApiError(code, "What went wrong.")
    assert (error.status, error.type) == CODES[code]
    assert str(error) == "What went wrong."


def test_a_status_of_the_upstreams_own_wins() -> None:
    assert ApiError("upstream_rejected", "m", status=422).status == 422


def test_a_code_outside_the_table_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        ApiError("some_new_code", "m")


def test_types_follow_the_status() -> None:
    for status, kind in CODES.values():
        if status in {401, 403, 404, 429}:
            assert kind == anthropic_wire.TYPES[status]
        else:
            assert kind == ("server_error" if status >= 500 else "invalid_request_error")
