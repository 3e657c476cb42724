"""The pages beside the admin: the one-time login link and the password that it asks for."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from tokenhub import login as links
from tokenhub.forms import FirstPasswordForm

BY_LINK = "opened_by_login_link"


@never_cache
@require_http_methods(["GET", "POST"])
def login_link(request: HttpRequest, token: str) -> HttpResponse:
    """A GET changes nothing: mail scanners and browsers' previews follow links, too."""
    context = {**admin.site.each_context(request), "title": "Log in"}
    if request.method == "POST" and (user := links.use(token)) is not None:
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        if user.has_usable_password():
            return redirect("admin:index")
        request.session[BY_LINK] = True
        return redirect("first-password")
    valid = request.method == "GET" and links.is_valid(token)
    return render(request, "tokenhub/login_link.html", {**context, "valid": valid}, status=200 if valid else 410)


def nowhere(request: HttpRequest) -> HttpResponse:
    """What allauth would have and we do not: sign-up, mail addresses, passwords by mail."""
    raise Http404


def locked_out(request: HttpRequest, *_: object, **__: object) -> HttpResponse:
    """What a login page answers after too many wrong passwords of one name from one address."""
    context = {**admin.site.each_context(request), "title": "Too many wrong passwords"}
    answer = render(request, "tokenhub/locked_out.html", context, status=429)
    answer["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return answer


@never_cache
@require_http_methods(["GET", "POST"])
def first_password(request: HttpRequest) -> HttpResponse:
    """For whoever came by a login link and has none yet. A session by single sign-on or the admin token gets none:
    it would outlast them. Whoever has a password changes it in the admin, where the old one is asked for."""
    user = request.user
    if not isinstance(user, User) or not user.is_staff:
        return redirect("admin:login")
    if user.has_usable_password():
        return redirect("admin:password_change")
    if not request.session.get(BY_LINK):
        raise PermissionDenied
    form = FirstPasswordForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        del request.session[BY_LINK]
        links.void_links()
        update_session_auth_hash(request, user)
        messages.success(request, f"From now on log in as {user.username} with this password.")
        return redirect("admin:index")
    context = {**admin.site.each_context(request), "title": "Set a password", "form": form}
    return render(request, "tokenhub/first_password.html", context)
