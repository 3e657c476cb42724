from threading import Event
from uuid import UUID

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class TokenHubConfig(AppConfig):
    name = "tokenhub"

    def ready(self) -> None:
        from keys import bank, playground
        from keys.models import ClientKey
        from orchestration import store
        from providers.models import SECRET_PREFIX
        from routing import runtime
        from routing.idempotency_store import prune as prune_calls
        from telemetry import captures, ingest, retention
        from telemetry.last_use import LastUse
        from tokenhub import audited, checks, login, roles  # noqa: F401  registers them
        from vault import capture_key
        from vault.models import Secret

        audited.connect()
        post_migrate.connect(roles.install, sender=self, dispatch_uid="roles")
        ingest.SINKS.append(bank.book)
        keys = LastUse(lambda entry: [uuid_or_nothing(entry.key_id)], lambda key: ClientKey.objects.filter(pk=key))
        secrets = LastUse(
            lambda entry: {entry.provider, *(attempt.provider for attempt in entry.attempt_list)},
            lambda key: Secret.objects.filter(name=SECRET_PREFIX + key),
        )
        ingest.WATCHERS += [keys.note, secrets.note]
        ingest.SWEEPS.append(bank.sweep)
        retention.PRUNERS += [prune_calls, captures.prune, store.prune, login.prune_sessions, playground.prune]
        captures.OPENERS[:] = [capture_key.opened]
        runtime.AT_START += [attend_credentials_file, attend_jobs]


def attend_credentials_file(stop: Event) -> None:
    """Its code is loaded where there is such a file."""
    if settings.TOKENHUB_CREDENTIALS_FILE.exists():
        from tokenhub import credentials_file

        credentials_file.attend(stop)


def attend_jobs(stop: Event) -> None:
    from tokenhub import job_scheduler

    job_scheduler.attend(stop)


def uuid_or_nothing(text: str) -> str:
    """Journals also name payers that are no client key."""
    try:
        return str(UUID(text))
    except ValueError:
        return ""
