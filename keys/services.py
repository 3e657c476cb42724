"""Every change of client keys. Admin, commands and the API call these and nothing else. Field errors come as Django's
ValidationError."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from keys.auth import digest_of
from keys.models import ClientKey

SHOWN_PREFIX_LENGTH = 17  # `tokenhub_` and eight digits: enough to tell keys apart, useless to a thief


@dataclass(frozen=True, slots=True, repr=False)
class IssuedKey:
    """A key as its owner sees it, once: only its digest is stored."""

    record: ClientKey
    plaintext: str

    def __repr__(self) -> str:
        return f"<IssuedKey {self.record}>"


def issue(
    *,
    name: str,
    owner: str = "",
    project: str = "",
    tags: Sequence[str] = (),
    scopes: Sequence[str] = (),
    allowed_models: Sequence[str] = (),
    allow_fallback: bool = True,
    allow_directives: bool = True,
    enabled: bool = True,
    expires_at: datetime | None = None,
) -> IssuedKey:
    """Raises ValidationError."""
    record = ClientKey(
        name=name,
        owner=owner,
        project=project,
        tags=list(tags),
        scopes=list(scopes),
        allowed_models=list(allowed_models),
        allow_fallback=allow_fallback,
        allow_directives=allow_directives,
        enabled=enabled,
        expires_at=expires_at,
    )
    return reissue(key=record)


def reissue(*, key: ClientKey) -> IssuedKey:
    """A fresh secret for a key, saved or not; the old one is refused from now on. Raises ValidationError."""
    plaintext = "tokenhub_" + secrets.token_hex(32)
    key.digest = digest_of(plaintext.encode("ascii"))
    key.key_prefix = plaintext[:SHOWN_PREFIX_LENGTH]
    save(key=key)
    return IssuedKey(key, plaintext)


@transaction.atomic
def save(*, key: ClientKey) -> None:
    """Raises ValidationError."""
    key.full_clean()
    key.save()


def revoke(*, key: ClientKey) -> None:
    """The key stays in the list, and is refused."""
    key.enabled = False
    save(key=key)


def delete(*, key: ClientKey) -> None:
    key.delete()
