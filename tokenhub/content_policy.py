"""The content security policy of every page that Django serves: scripts, styles, fonts, pictures and requests from here
alone, no inline script, no frame, no form that posts elsewhere.

Two things are looser than we would have them, for unfold: Alpine compiles the expressions in its attributes, which
needs 'unsafe-eval', and unfold writes its colours into a <style>, and widths into style attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

DIRECTIVES: Final[Mapping[str, str]] = {
    "default-src": "'none'",
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
POLICY: Final = "; ".join(f"{name} {sources}" for name, sources in DIRECTIVES.items())


class ContentPolicy(MiddlewareMixin):
    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if str(response.get("Content-Type", "")).startswith("text/html"):
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response
