"""The admin API's token: from the environment, or made once and kept in the data folder with mode 0600. Compared in
constant time and never logged; guesses are slowed down. Knows no DRF: the server makes the token before it serves."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import secrets
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from telemetry import audit
from telemetry.logs import EventLogger
from tokenhub import login

log = EventLogger(__name__)
FILE_NAME: Final = "admin-token"
USER_NAME: Final = "admin-token"
PREFIX: Final = "tokenhub_admin_"
FREE_FAILURES: Final = 10
SECONDS_PER_FAILURE: Final = 5.0
MAX_ADDRESSES: Final = 4096


class TooManyFailures(Exception):
    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class NameTaken(Exception):
    """Somebody of an identity provider has the token's user name."""


class Throttle:
    """Ten wrong tokens are free for an address, further ones cost it five seconds each, in which it gets no answer at
    all: otherwise guessing would go on behind the refusals. Per process."""

    def __init__(self) -> None:
        self._owed: dict[str, float] = {}
        """Address to the moment at which it has ten free failures again."""

    def check(self, address: str, now: float) -> None:
        """Raises TooManyFailures."""
        wait = self._owed.get(address, now) - now - (FREE_FAILURES - 1) * SECONDS_PER_FAILURE
        if wait > 0:
            raise TooManyFailures(wait)

    def failed(self, address: str, now: float) -> None:
        if len(self._owed) >= MAX_ADDRESSES:
            self._owed = {one: until for one, until in self._owed.items() if until > now}
            while len(self._owed) >= MAX_ADDRESSES:  # who came first is forgotten first
                del self._owed[next(iter(self._owed))]
        self._owed[address] = max(self._owed.get(address, now), now) + SECONDS_PER_FAILURE

    def clear(self) -> None:
        self._owed.clear()


THROTTLE = Throttle()


def path() -> Path:
    return Path(settings.TOKENHUB_DATA_DIR) / FILE_NAME


def is_from_environment() -> bool:
    return bool(settings.TOKENHUB_ADMIN_TOKEN)


def current() -> str:
    """Made if there is none. Raises OSError."""
    if settings.TOKENHUB_ADMIN_TOKEN:
        return str(settings.TOKENHUB_ADMIN_TOKEN)
    with contextlib.suppress(FileNotFoundError):
        if found := _read():
            return found
        path().unlink(missing_ok=True)  # an empty file would be an empty token
    fresh = _written(PREFIX + secrets.token_hex(32))
    try:
        os.link(fresh, path())  # whole at once, and only if nobody was faster
    except FileExistsError:
        return _read()
    finally:
        fresh.unlink()
    log.info("admin_token_made", path=str(path()))
    return _read()


def prepare() -> None:
    """Before the server serves: the token is there, its file is nobody else's, and sessions that an earlier token
    opened have ended."""
    try:
        token = current()
        if not is_from_environment() and path().stat().st_mode & 0o077:
            path().chmod(0o600)
            log.warning("admin_token_was_readable", path=str(path()))
    except OSError as problem:
        log.error("admin_token_unusable", path=str(path()), reason=str(problem.strerror))
        return
    User.objects.filter(username=USER_NAME).exclude(password=_mark(token)).update(password=_mark(token))


def verify(presented: bytes, *, address: str) -> bool:
    """Raises TooManyFailures, OSError."""
    now = monotonic()
    THROTTLE.check(address, now)
    right = hmac.compare_digest(sha256(presented).digest(), sha256(current().encode()).digest())
    if not right:
        THROTTLE.failed(address, now)
        log.warning("admin_token_refused", address=address)
        audit.refused("admin_token.refused", address=address)
    return right


def session_user() -> User:
    """Admin: a superuser without a password, whose sessions end with the token. Raises OSError, NameTaken."""
    if login.of_single_sign_on().filter(username=USER_NAME).exists():
        raise NameTaken
    login.ensure_admin()  # a person's account comes first: login links are for people
    user, _ = User.objects.get_or_create(username=USER_NAME, defaults={"first_name": "Admin"})
    mark = _mark(current())
    if user.password != mark or not (user.is_staff and user.is_superuser and user.is_active):
        user.password = mark
        user.is_staff = user.is_superuser = user.is_active = True
        user.save()
    return user


def rotate() -> str:
    """A new token; the old one is refused from now on, in every process, and its sessions are over. Raises OSError."""
    token = PREFIX + secrets.token_hex(32)
    _written(token).replace(path())
    User.objects.filter(username=USER_NAME).update(password=_mark(token))
    audit.record("admin_token.rotate", resource="admin-token")
    log.info("admin_token_rotated", path=str(path()))
    return token


def _read() -> str:
    return path().read_text(encoding="ascii", errors="replace").strip()


def _written(token: str) -> Path:
    """A fresh file that holds it, for the owner alone."""
    fresh = path().with_name(f"{FILE_NAME}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return fresh


def _mark(token: str) -> str:
    """What stands in place of a password: no password fits it, and Django ends sessions when it changes."""
    return "!" + salted_hmac("tokenhub.admin_token", token, algorithm="sha256").hexdigest()


# -- who is asking -------------------------------------------------------------------------------------------------
@cache
def _trusted() -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(one, strict=False) for one in settings.TOKENHUB_TRUSTED_PROXIES)


def _is_proxy(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in _trusted())


def address_of(request: HttpRequest) -> str:
    """The client's address, which a trusted proxy may tell."""
    address = str(request.META.get("REMOTE_ADDR") or "")
    if _is_proxy(address):
        for hop in reversed(str(request.META.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
            if hop.strip() and not _is_proxy(hop.strip()):
                return hop.strip()[:64]
    return address
