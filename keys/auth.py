"""Who is asking: a presented client key to its record, by one digest and one look-up. Data plane: no database, no
Django. Client keys are 256 random bits, so a fast digest is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from keys.limits import Limits

if TYPE_CHECKING:
    from keys.allowance import Allowance

KEY_PREFIX = b"tokenhub_"
KEY_LENGTH = len(KEY_PREFIX) + 64


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """A budget as the data plane needs it: nano-dollars in each day, week, month, or in total. `whose`: as a person
    reads it."""

    id: int
    amount: int
    every: str
    whose: str


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A client key as the data plane needs it. Empty `scopes` or `allowed_models`: all. `expires_at`: Unix time.
    `capture`: its prompts and answers. `budgets`: its own, its project's and the installation's; `limits`: its own and
    its project's. All must hold. `allowance`: of them, what this process has ready for its next requests."""

    id: str
    name: str
    project: str
    tags: tuple[str, ...]
    scopes: frozenset[str]
    allowed_models: frozenset[str]
    allow_fallback: bool
    enabled: bool
    expires_at: float | None
    allow_directives: bool = True
    budgets: tuple[BudgetRecord, ...] = ()
    limits: tuple[Limits, ...] = ()
    capture: bool = False
    allowance: Allowance | None = field(default=None, init=False, repr=False, compare=False)

    def grant(self, allowance: Allowance | None) -> None:
        object.__setattr__(self, "allowance", allowance)

    def may_use(self, model_id: str) -> bool:
        return not self.allowed_models or model_id in self.allowed_models

    def has_scope(self, scope: str) -> bool:
        return not self.scopes or scope in self.scopes or (scope == "embeddings" and "chat" in self.scopes)


class AuthError(Exception):
    """`code` as the client sees it; `record` when the key is known but may not be used."""

    def __init__(self, code: str, message: str, hint: str, record: KeyRecord | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.record = record


def digest_of(key: bytes) -> str:
    """What the database stores of a key."""
    return sha256(key).hexdigest()


def authenticate(keys: Mapping[str, KeyRecord], headers: Mapping[bytes, bytes], *, now: float) -> KeyRecord:
    """The record of the key in `Authorization: Bearer` or `x-api-key`. Raises AuthError."""
    bearer = headers.get(b"authorization", b"")
    presented = [bearer[7:].strip()] if bearer[:7].lower() == b"bearer " else []
    if other := headers.get(b"x-api-key"):
        presented.append(other.strip())
    record = None
    for key in presented:
        if len(key) == KEY_LENGTH and (record := keys.get(digest_of(key))) is not None:
            break
    if record is None:
        if not any(presented):
            raise AuthError(
                "missing_api_key",
                "No client key was sent.",
                "Send `Authorization: Bearer tokenhub_…` or `x-api-key: tokenhub_…`.",
            )
        if all(len(key) != KEY_LENGTH or not key.startswith(KEY_PREFIX) for key in presented):
            raise AuthError(
                "invalid_api_key",
                "This is no TokenHub client key: one is `tokenhub_` and 64 hexadecimal digits.",
                "Providers' own credentials are kept by TokenHub; ask its operator for a client key.",
            )
        raise AuthError(
            "invalid_api_key", "This client key is not known here.", "It may have been revoked; ask for a new one."
        )
    if not record.enabled:
        raise AuthError("disabled_api_key", "This client key is disabled.", "Ask the operator to enable it.", record)
    if record.expires_at is not None and now >= record.expires_at:
        raise AuthError("expired_api_key", "This client key has expired.", "Ask the operator for a new one.", record)
    return record
