from __future__ import annotations

from django.db.models import OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Concat
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from providers import discovery, services
from providers.models import SECRET_PREFIX, Provider
from providers.serializers import ProviderSerializer, ReportSerializer, shown_look
from tokenhub.apikit import Records, rights
from vault.models import Secret


class Providers(Records[Provider]):
    """Where requests are sent. Changing where calls go asks for the credential again."""

    rights = rights(Provider)
    serializer_class = ProviderSerializer

    def get_queryset(self) -> QuerySet[Provider]:
        stored = Secret.objects.filter(name=Concat(Value(SECRET_PREFIX), OuterRef("id")))
        return Provider.objects.annotate(credential_fingerprint=Subquery(stored.values("fingerprint")[:1]))

    def remove(self, record: Provider) -> None:
        services.delete(provider=record)


class TestProvider(Providers):
    rights = {"POST": ("providers.change_provider",)}

    @extend_schema(request=None, responses=ReportSerializer)
    def test(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """Asks each of its addresses for the list of models, and says what fails. Changes nothing."""
        provider = self.find(id)
        looks = discovery.look(provider)
        shown = next((one for one in looks if one.problem is not None), looks[0])
        told = {"provider_id": provider.pk, **shown_look(shown), "addresses": [shown_look(one) for one in looks]}
        return Response(told)
