from uuid import UUID

from django.apps import AppConfig


class TokenHubConfig(AppConfig):
    name = "tokenhub"

    def ready(self) -> None:
        from keys import bank
        from keys.models import ClientKey
        from providers.models import SECRET_PREFIX
        from telemetry import ingest
        from telemetry.last_use import LastUse
        from telemetry.tsdb.upkeep import Upkeep
        from tokenhub import audited, checks  # noqa: F401  registers them
        from vault.models import Secret

        audited.connect()
        ingest.SINKS.append(bank.book)
        keys = LastUse(lambda entry: uuid_or_nothing(entry.key_id), lambda key: ClientKey.objects.filter(pk=key))
        secrets = LastUse(lambda entry: entry.provider, lambda key: Secret.objects.filter(name=SECRET_PREFIX + key))
        ingest.WATCHERS += [keys.note, secrets.note]
        ingest.SWEEPS += [bank.sweep, Upkeep()]


def uuid_or_nothing(text: str) -> str:
    """Journals also name payers that are no client key."""
    try:
        return str(UUID(text))
    except ValueError:
        return ""
