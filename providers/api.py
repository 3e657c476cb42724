from __future__ import annotations

from django.db.models import OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Concat

from providers import services
from providers.models import SECRET_PREFIX, Provider
from providers.serializers import ProviderSerializer
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
