"""Every error that a client of /v1 can get: one stable code, one status, in one table. Nothing here knows a dialect.

ApiError
  code: a key of CODES; status: that of the table, or the upstream's own for `upstream_rejected`
  details: for the client; noted: for the journal, what refused the request
  is_lasting: the same request would fail again; told to clients that repeat every 5xx by themselves
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from providers.formats.errors import InvalidRequest

_INVALID = "invalid_request_error"
_SERVER = "server_error"

CODES: Final[dict[str, tuple[int, str]]] = {
    "invalid_json": (400, _INVALID),
    "invalid_request": (400, _INVALID),
    "invalid_directive": (400, _INVALID),
    "unsupported_parameter": (400, _INVALID),
    "context_length_exceeded": (400, _INVALID),
    "upstream_rejected": (400, _INVALID),
    "missing_api_key": (401, "authentication_error"),
    "invalid_api_key": (401, "authentication_error"),
    "expired_api_key": (401, "authentication_error"),
    "disabled_api_key": (401, "authentication_error"),
    "scope_not_allowed": (403, "permission_error"),
    "model_not_allowed": (403, "permission_error"),
    "model_not_found": (404, "not_found_error"),
    "not_found": (404, "not_found_error"),
    "method_not_allowed": (405, _INVALID),
    "request_timeout": (408, _INVALID),
    "idempotency_conflict": (409, _INVALID),
    "request_too_large": (413, _INVALID),
    "output_schema_mismatch": (422, _INVALID),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "budget_exceeded": (429, "rate_limit_error"),
    "upstream_rate_limited": (429, "rate_limit_error"),
    "internal_error": (500, _SERVER),
    "upstream_error": (502, _SERVER),
    "all_models_failed": (502, _SERVER),
    "no_eligible_models": (502, _SERVER),
    "vault_locked": (503, _SERVER),
    "no_models_configured": (503, _SERVER),
    "accounting_unavailable": (503, _SERVER),
    "overloaded": (503, _SERVER),
    "upstream_timeout": (504, _SERVER),
}


class ApiError(Exception):
    """An answer to the client. `message` names the cause in a plain sentence, `hint` the next step; neither may hold a
    credential, an address of a provider or a word of another client."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str = "",
        status: int | None = None,
        retry_after_seconds: float | None = None,
        error_class: str = "",
        allow: tuple[str, ...] = (),
        is_lasting: bool = False,
        details: Mapping[str, object] | None = None,
        noted: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.hint = hint
        default_status, self.type = CODES[code]
        self.status = status or default_status
        self.retry_after_seconds = retry_after_seconds
        self.error_class = error_class
        self.allow = allow
        self.is_lasting = is_lasting
        self.details = details
        self.noted = noted

    @property
    def retry_after(self) -> int:
        """As the header has it; 0: there is none."""
        if self.retry_after_seconds is None:
            return 0
        return max(1, -int(-self.retry_after_seconds // 1))

    @classmethod
    def of(cls, problem: InvalidRequest) -> ApiError:
        return cls(problem.code, problem.message, param=problem.param, details=problem.details)
