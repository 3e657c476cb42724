"""Client keys of the admin's playground: a person's own, for half an hour, for chat and plans alone. They are made for
a page's memory and shown to nobody; an hourly job drops those whose time is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from django.utils import timezone

from keys import services
from keys.models import ClientKey, Scope

LIFETIME: Final = timedelta(minutes=30)
AT_ONCE: Final = 5
"""Pages of one person that work at the same time; the oldest makes room for a further one."""
SCOPES: Final = (Scope.CHAT.value, Scope.PLAN.value)
TAG: Final = "playground"


def issue(*, owner: str, key_id: UUID | None = None) -> services.IssuedKey:
    """What is spent with it is `owner`'s. `key_id`: chosen by the page, so it can end what it was not told of yet.
    Raises ValidationError."""
    now = timezone.now()
    own = ClientKey.objects.filter(is_playground=True, owner=owner).order_by("-created_at")
    for old in own[AT_ONCE - 1 :]:
        services.delete(key=old)
    record = ClientKey(
        id=key_id or uuid4(),
        name=f"playground of {owner}",
        owner=owner,
        tags=[TAG],
        scopes=list(SCOPES),
        expires_at=now + LIFETIME,
        is_playground=True,
    )
    return services.reissue(key=record)


def end(*, owner: str, key_id: str) -> bool:
    """Whether there was such a key of theirs."""
    key = ClientKey.objects.filter(pk=key_id, owner=owner, is_playground=True).first()
    if key is None:
        return False
    services.delete(key=key)
    return True


def owns(*, owner: str, key_id: str) -> bool:
    return ClientKey.objects.filter(pk=key_id, owner=owner, is_playground=True).exists()


def prune() -> int:
    """Drops those whose time is over. How many."""
    over = list(ClientKey.objects.filter(is_playground=True, expires_at__lte=timezone.now()))
    for key in over:
        services.delete(key=key)
    return len(over)
