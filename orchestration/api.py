from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from orchestration import services
from orchestration.history import history
from orchestration.models import LegState, PlanRun, RunState
from orchestration.serializers import HistorySerializer, WorkflowDetailSerializer, WorkflowSerializer
from tokenhub.apikit import ApiError, Records, invalid

_CHANGE = ("orchestration.change_planrun",)


class Workflows(Records[PlanRun]):
    """Runs of `/v1/plan`. What was asked and said is not shown here: it belongs to the key that started them."""

    rights = {"GET": ("orchestration.view_planrun",), "POST": _CHANGE}
    serializer_class = WorkflowSerializer

    def get_queryset(self) -> QuerySet[PlanRun]:
        done = Count("legs", filter=~Q(legs__state=LegState.RUNNING))
        found = PlanRun.objects.defer("sealed_plan", "sealed_outcome").annotate(legs_done=done)
        wanted = self.request.query_params.get("status")
        if wanted and self.action == "list":
            if wanted not in RunState.values:
                raise invalid("status", f"one of {', '.join(RunState.values)}.")
            found = found.filter(state=wanted)
        return found.order_by("-created_at", "-pk")

    @extend_schema(
        parameters=[OpenApiParameter("status", enum=RunState.values)], responses=WorkflowSerializer(many=True)
    )
    def list(self, request: Request) -> Response:
        """Newest first."""
        return super().list(request)

    @extend_schema(responses=WorkflowDetailSerializer)
    def retrieve(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """With its legs, as they stand."""
        return Response(WorkflowDetailSerializer(self.find(id)).data)

    @extend_schema(responses=HistorySerializer)
    def history(self, request: Request, id: str) -> Response:  # noqa: A002
        """What happened, in order."""
        found = self.find(id)
        events: Any = [{"at": one.at, "event": one.event, "leg": one.leg} for one in history(found)]
        return Response(HistorySerializer({"id": found.pk, "events": events}).data)

    @extend_schema(request=None, responses=WorkflowDetailSerializer)
    def cancel(self, request: Request, id: str) -> Response:  # noqa: A002
        """Ends it; a call that is under way is given up."""
        try:
            services.cancel(run=self.find(id))
        except services.AlreadyOver:
            raise ApiError("conflict", "This run is over already.", hint="Look at it for its outcome.") from None
        return Response(WorkflowDetailSerializer(self.find(id)).data)

    def find(self, key: str) -> PlanRun:
        try:
            return super().find(str(UUID(key)))
        except ValueError:
            raise Http404 from None
