"""The installation's own rows."""

from __future__ import annotations

from django.db import models


class LoginLink(models.Model):
    """A one-time login link: 256 random bits, of which only the digest is stored."""

    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [("administer", "Can administer TokenHub: the vault and the admin token")]

    def __str__(self) -> str:
        return f"login link until {self.expires_at:%H:%M}"
