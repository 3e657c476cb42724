from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from keys import services
from keys.models import Budget, ClientKey, Every, Project, Subject
from keys.serializers import (
    BudgetSerializer,
    ClientKeySerializer,
    IssuedSerializer,
    ProjectSerializer,
    RotateKeySerializer,
)
from tokenhub import turn
from tokenhub.apikit import Done, Records, View, body_of, done, expect, rights, tag_of, tagged

WARNING = "Keep this key now: it is stored as a digest only, and cannot be shown again."


class ClientKeys(Records[ClientKey]):
    """Client keys. A key is shown once, in the answer that made it."""

    rights = {**rights(ClientKey), "POST": ("keys.add_clientkey",)}
    serializer_class = ClientKeySerializer
    queryset = ClientKey.objects.all()

    @extend_schema(responses=IssuedSerializer)
    def create(self, request: Request) -> Response:
        serializer = ClientKeySerializer(data=request.data, context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return self.issued(serializer.issue())

    def issued(self, issued: services.IssuedKey) -> Response:
        record = issued.record
        told = {
            "ok": True,
            "key": issued.plaintext,
            "id": str(record.pk),
            "prefix": record.key_prefix,
            "warning": WARNING,
        }
        return Response(told, headers={"ETag": tag_of(self.shown(str(record.pk)))})

    def remove(self, record: ClientKey) -> None:
        services.delete(key=record)

    def _row(self, rows: object, key: str) -> ClientKey | None:
        try:
            return super()._row(rows, str(UUID(key)))
        except ValueError:
            return None


class Projects(Records[Project]):
    """Projects group client keys, which name them."""

    rights = rights(Project)
    serializer_class = ProjectSerializer
    queryset = Project.objects.all()
    key_field = "name"

    def remove(self, record: Project) -> None:
        services.delete_project(project=record)


class RotateClientKey(ClientKeys):
    """A fresh secret for a key; the old one is refused from now on, or after a grace."""

    rights = {"POST": ("keys.change_clientkey",)}

    @extend_schema(request=RotateKeySerializer, responses=IssuedSerializer)
    @transaction.atomic
    def rotate(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        asked = RotateKeySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        found = self._locked(id)
        if found is None:
            raise Http404
        self.expect(request, found)
        return self.issued(services.reissue(key=found, grace=asked.validated_data.get("grace_period")))


class InstallationBudget(View):
    """The budget of the whole installation: all requests, shadows and judges together."""

    rights = {"GET": ("keys.view_budget",), "PUT": ("keys.change_budget",), "DELETE": ("keys.delete_budget",)}

    @extend_schema(responses=BudgetSerializer)
    def get(self, request: Request) -> Response:
        shown = _budget()
        if shown is None:
            raise Http404
        return tagged(shown)

    @extend_schema(request=BudgetSerializer, responses=BudgetSerializer)
    @transaction.atomic
    def put(self, request: Request) -> Response:
        serializer = BudgetSerializer(data=body_of(request))
        serializer.is_valid(raise_exception=True)
        expect(request, _budget(lock=True))
        given = serializer.validated_data["budget"]
        services.set_budget(
            subject=Subject.INSTALLATION,
            amount_usd=given["amount_usd"],
            every=given.get("every", Every.MONTH),
        )
        return self.get(request)

    @extend_schema(responses=Done)
    @transaction.atomic
    def delete(self, request: Request) -> Response:
        expect(request, _budget(lock=True))
        services.set_budget(subject=Subject.INSTALLATION, amount_usd=None)
        return done()


def _budget(*, lock: bool = False) -> dict[str, Any] | None:
    if lock:
        turn.take()
        Budget.objects.select_for_update().filter(subject=Subject.INSTALLATION).first()
    known = services.standings_of(Subject.INSTALLATION, [""]).get("")
    return None if known is None else dict(BudgetSerializer(known).data)
