from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from keys import services
from keys.models import ClientKey
from keys.serializers import ClientKeySerializer, IssuedSerializer, NothingSerializer
from tokenhub.apikit import Records, rights

WARNING = "Keep this key now: it is stored as a digest only, and cannot be shown again."


class ClientKeys(Records[ClientKey]):
    """Client keys. A key is shown once, in the answer that made it."""

    rights = {**rights(ClientKey), "POST": ("keys.add_clientkey",)}
    serializer_class = ClientKeySerializer
    queryset = ClientKey.objects.all()

    @extend_schema(responses=IssuedSerializer)
    def create(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return _shown(services.issue(**serializer.validated_data))

    def remove(self, record: ClientKey) -> None:
        services.delete(key=record)

    def _row(self, rows: object, key: str) -> ClientKey | None:
        try:
            return super()._row(rows, str(UUID(key)))
        except ValueError:
            return None


class RotateClientKey(ClientKeys):
    """A fresh secret for a key; the old one is refused from now on."""

    rights = {"POST": ("keys.change_clientkey",)}

    @extend_schema(request=NothingSerializer, responses=IssuedSerializer)
    @transaction.atomic
    def rotate(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        found = self._locked(id)
        if found is None:
            raise Http404
        return _shown(services.reissue(key=found))


def _shown(issued: services.IssuedKey) -> Response:
    record = issued.record
    return Response(
        {
            "ok": True,
            "key": issued.plaintext,
            "id": str(record.pk),
            "prefix": record.key_prefix,
            "warning": WARNING,
        }
    )
