"""Outermost around Django: every answer carries its request's ids, and an error of the admin API has its shape even
where Django answers before any view does. And whose session ended while a page was open gets the login as a page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from django.contrib import admin
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError
from django.http import HttpRequest
from django.http.response import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.deprecation import MiddlewareMixin

from routing.identity import client_request_id, new_request_id
from telemetry import audit
from telemetry.logs import REQUEST_ID, EventLogger
from tokenhub.admin_token import address_of

log = EventLogger(__name__)
API: Final = "/admin/v1/"
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CODES: Final = {
    400: ("invalid_request", "invalid_request_error"),
    403: ("permission_denied", "permission_error"),
    404: ("not_found", "not_found_error"),
    413: ("request_too_large", "invalid_request_error"),
}


class LoginAsPage(MiddlewareMixin):
    """A script of htmx that is sent to the login would put it into the part that it asked for, and the login would lead
    to an address that is no page: the browser goes there as a whole instead, and comes back to the page it was on."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if request.headers.get("HX-Request") != "true" or not 300 <= response.status_code < 400:
            return response
        login = reverse("admin:login")
        if urlsplit(response["Location"]).path != login:
            return response
        page = urlsplit(request.headers.get("HX-Current-URL", ""))
        here = page.netloc == request.get_host() and page.path.startswith("/admin/")
        shown = page._replace(scheme="", netloc="", fragment="").geturl() if here else reverse("setup:index")
        whole = HttpResponse(
            headers={"Cache-Control": "no-store", "HX-Redirect": f"{login}?{urlencode({'next': shown})}"}
        )
        whole.cookies = response.cookies
        return whole


class DatabaseAway(MiddlewareMixin):
    """A page that met a deadlock, a timeout, or no database says so in words, and what to do. Its transactions are
    undone by then. The admin API answers by itself, and a defect of ours stays a 500."""

    def process_exception(self, request: HttpRequest, problem: Exception) -> HttpResponse | None:
        if request.path.startswith(API) or not isinstance(problem, OperationalError | InterfaceError | IntegrityError):
            return None
        is_busy, posted = not isinstance(problem, IntegrityError), request.method not in _READING
        log.error("admin_database", error=type(problem).__name__, reason=str(problem)[:200])
        title = "Not saved" if posted else "Not at the moment"
        told = {"title": title, "is_busy": is_busy, "posted": posted, "back": request.get_full_path()}
        status = HTTPStatus.SERVICE_UNAVAILABLE if is_busy else HTTPStatus.CONFLICT
        try:
            context = {**admin.site.each_context(request), **told}
            answer = render(request, "tokenhub/database.html", context, status=status)
        except DatabaseError:  # the page's menu needs it, too
            text = f"{title}: the database cannot be reached. Try again in a moment."
            answer = HttpResponse(text, content_type="text/plain; charset=utf-8", status=status)
        answer["Cache-Control"], answer["Retry-After"] = "no-store", "1"
        return answer


class RequestIds(MiddlewareMixin):
    """`request.request_id` is our own id, `request.shown_request_id` the client's if it sent one that can be shown."""

    def process_request(self, request: HttpRequest) -> None:
        own = new_request_id()
        theirs = client_request_id(str(request.META.get("HTTP_X_REQUEST_ID", "")).encode("latin-1", "replace"))
        request.request_id = own  # type: ignore[attr-defined]
        request.shown_request_id = theirs or own  # type: ignore[attr-defined]
        REQUEST_ID.set(own)
        source = "api" if request.path.startswith(API) else "admin"
        audit.enter(audit.Origin(source, address=address_of(request), request_id=own, request=request))

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if request.path.startswith(API):
            response = self._as_api(request, response)
        response["X-TokenHub-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        response["X-Request-ID"] = request.shown_request_id  # type: ignore[attr-defined]
        audit.enter(None)
        REQUEST_ID.set("")
        return response

    def _as_api(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code >= 400 and not str(response.get("Content-Type", "")).startswith("application/json"):
            code, kind = _CODES.get(response.status_code, ("internal_error", "server_error"))
            error = {
                "message": f"{HTTPStatus(response.status_code).phrase}.", "type": kind, "param": None, "code": code,
                "hint": None, "request_id": request.shown_request_id,  # type: ignore[attr-defined]
            }  # fmt: skip
            response = JsonResponse({"error": error}, status=response.status_code)
            response["X-TokenHub-Error-Code"] = code
        response["Cache-Control"] = "no-store"
        if request.method not in _READING:
            log.info(
                "admin_api",
                method=request.method,
                path=quote(request.path),
                status=response.status_code,
                actor=str(getattr(request, "user", None) or "-"),
                address=address_of(request),
            )
        return response
