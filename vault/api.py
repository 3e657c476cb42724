"""The vault by its services. What a worker opens is open in all: they share the keyring."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from tokenhub.apikit import ADMINS_ALONE, Done, Records, View, body_of, done, invalid, tagged
from vault import services
from vault.errors import WeakPassword
from vault.models import Secret
from vault.serializers import (
    NothingSerializer,
    RotateSerializer,
    SecretSerializer,
    SecretValueSerializer,
    StateSerializer,
    UnlockSerializer,
)

MAX_NAME = 260


def _state() -> Response:
    state = services.status()
    return Response(
        {
            "ok": True,
            "vault_initialized": state.initialized,
            "vault_locked": state.locked,
            "secrets": state.secrets,
        }
    )


class Unlock(View):
    rights = ADMINS_ALONE

    @extend_schema(request=UnlockSerializer, responses=StateSerializer)
    def post(self, request: Request) -> Response:
        """Opens the vault; the first time it makes it, with this password."""
        serializer = UnlockSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            services.unlock_or_initialize(password=serializer.validated_data["admin_password"])
        except WeakPassword as problem:
            raise invalid("admin_password", problem.message) from None
        return _state()


class Lock(View):
    rights = ADMINS_ALONE

    @extend_schema(request=NothingSerializer, responses=StateSerializer)
    def post(self, request: Request) -> Response:
        """Wipes the key from memory. Providers with a credential are out of reach until it is opened."""
        NothingSerializer(data=body_of(request)).is_valid(raise_exception=True)
        services.lock()
        return _state()


class Rotate(View):
    rights = ADMINS_ALONE

    @extend_schema(request=RotateSerializer, responses=StateSerializer)
    def post(self, request: Request) -> Response:
        """Changes the password and seals every secret anew."""
        serializer = RotateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            services.rotate(**serializer.validated_data)
        except WeakPassword as problem:
            raise invalid("new_password", problem.message) from None
        return _state()


class Secrets(Records[Secret]):
    """Names and fingerprints; a value never comes out."""

    rights = ADMINS_ALONE
    serializer_class = SecretSerializer
    queryset = Secret.objects.all()

    def key_of(self, record: Secret) -> str:
        return record.name

    def _row(self, rows: Any, key: str) -> Secret | None:
        found: Secret | None = None if "\0" in key else rows.filter(name=key).first()
        return found

    @extend_schema(request=SecretValueSerializer)
    @transaction.atomic
    def replace(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        if len(id) > MAX_NAME or not id.isascii() or not id.isprintable():
            raise invalid("name", f"at most {MAX_NAME} printable characters.")
        serializer = SecretValueSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        self.expect(request, self._locked(id))
        services.put_secret(name=id, value=serializer.validated_data["value"])
        return tagged(self.shown(id))

    @extend_schema(responses=Done)
    @transaction.atomic
    def destroy(self, request: Request, id: str) -> Response:  # noqa: A002
        self.expect(request, self._locked(id))
        if not services.delete_secret(name=id):
            raise Http404
        return done()
