"""From each failure to the admin API's answer. The settings name `answer`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db.utils import DatabaseError, DataError, IntegrityError
from django.http import Http404, JsonResponse
from rest_framework import exceptions

from routing.errors import ApiError as RoutingError
from telemetry.logs import EventLogger
from tokenhub.apikit import ApiError
from vault.errors import NotInitialized, TooManyAttempts, VaultError, VaultLocked, WrongPassword

log = EventLogger(__name__)
_UNLOCK = "POST /admin/v1/vault/unlock opens it."


def answer(problem: Exception, context: dict[str, Any]) -> JsonResponse:
    """Plain JSON, whatever the view renders otherwise."""
    request = context.get("request")
    shown = getattr(getattr(request, "_request", None), "shown_request_id", None)
    error = _error(problem)
    if error is None:
        log.exception("admin_api_failed", request=shown)  # noqa: LOG004  DRF calls this while it handles the exception
        error = ApiError("internal_error", "TokenHub failed at this.", hint="Its log says how, under the request id.")
    body: dict[str, Any] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "hint": error.hint or None,
        "request_id": shown,
    }
    if isinstance(error, ApiError) and error.errors:
        body["errors"] = error.errors
    headers = {"X-TokenHub-Error-Code": error.code}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, -int(-error.retry_after_seconds // 1)))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="TokenHub admin"'
    if isinstance(problem, exceptions.MethodNotAllowed) and "view" in context:
        headers["Allow"] = ", ".join(context["view"].allowed_methods)
    return JsonResponse({"error": body}, status=error.status, headers=headers)


def _error(problem: Exception) -> ApiError | RoutingError | None:
    match problem:
        case ApiError() | RoutingError():
            return problem
        case VaultError():
            return _of_vault(problem)
        case exceptions.ValidationError():
            return _first(problem.detail)
        case DjangoValidationError():
            return _first(_tree(problem))
        case exceptions.ParseError():
            return ApiError("invalid_json", "The body cannot be read.")
        case exceptions.NotAuthenticated():
            hint = "Send `Authorization: Bearer <admin token>`, or log in. The token is in the file admin-token."
            return ApiError("missing_api_key", "The admin token is missing.", hint=hint)
        case exceptions.AuthenticationFailed():
            hint = "The token is in the file admin-token of the data folder, or in TOKENHUB_ADMIN_TOKEN."
            return ApiError("invalid_api_key", str(problem.detail), hint=hint)
        case exceptions.PermissionDenied():
            return ApiError("permission_denied", str(problem.detail))
        case DjangoPermissionDenied():
            return ApiError("permission_denied", "You may not do this.")
        case Http404() | exceptions.NotFound():
            return ApiError(
                "not_found", "There is nothing of this name here.", hint="/admin/v1/docs lists what there is."
            )
        case exceptions.MethodNotAllowed():
            return ApiError("method_not_allowed", str(problem.detail))
        case exceptions.Throttled():
            return ApiError(
                "rate_limit_exceeded", str(problem.detail), retry_after_seconds=getattr(problem, "wait", None)
            )
        case DataError():
            return ApiError("invalid_request", "The database takes no such value.")
        case IntegrityError():
            return ApiError("conflict", "Somebody changed the same at the same moment.", hint="Try again.")
        case DatabaseError():
            log.error("admin_api_database", error=type(problem).__name__, reason=str(problem)[:200])
            return ApiError("overloaded", "The database cannot be used at the moment.", retry_after_seconds=1.0)
        case OSError():
            log.error("admin_api_data_folder", error=type(problem).__name__, reason=str(problem)[:200])
            return ApiError("overloaded", "The data folder cannot be used.", retry_after_seconds=1.0)
    return None


def _of_vault(problem: VaultError) -> ApiError:
    match problem:
        case VaultLocked():
            return ApiError("vault_locked", problem.message, hint=_UNLOCK)
        case WrongPassword():
            return ApiError("wrong_password", problem.message)
        case TooManyAttempts():
            wait = problem.retry_after_seconds
            return ApiError("rate_limit_exceeded", problem.message, retry_after_seconds=wait)
        case NotInitialized():
            return ApiError("conflict", problem.message, hint="POST /admin/v1/vault/unlock makes it.")
    return ApiError("conflict", problem.message)


def _first(detail: Any) -> ApiError:
    """Of a tree of messages."""
    name, text = next(_leaves(detail, ""), ("", "The request is invalid."))
    return ApiError("invalid_request", f"{name}: {text}" if name else text, param=name or None)


def leaves(problem: exceptions.ValidationError | DjangoValidationError) -> list[tuple[str, str]]:
    """Every message, with the path to it as clients write it: `variants[0].weight`."""
    detail = problem.detail if isinstance(problem, exceptions.ValidationError) else _tree(problem)
    return list(_leaves(detail, "")) or [("", "It is invalid.")]


def _tree(problem: DjangoValidationError) -> dict[str, Any]:
    named = problem.message_dict if hasattr(problem, "error_dict") else {"": problem.messages}
    return {"" if name == "__all__" else name: texts for name, texts in named.items()}


def _leaves(detail: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(detail, dict):
        for name, inner in detail.items():
            if isinstance(name, int):
                here = f"{path}[{name}]"
            elif name in {"non_field_errors", ""}:
                here = path
            else:
                here = f"{path}.{name}" if path else str(name)
            yield from _leaves(inner, here)
    elif isinstance(detail, list):
        for place, inner in enumerate(detail):
            nested = isinstance(inner, (dict, list))
            yield from _leaves(inner, f"{path}[{place}]" if nested else path)
    else:
        yield path, str(detail)
