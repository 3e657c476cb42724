from django.apps import AppConfig


class TokenHubConfig(AppConfig):
    name = "tokenhub"

    def ready(self) -> None:
        from keys import bank
        from keys.last_use import LastUse
        from telemetry import ingest
        from tokenhub import checks  # noqa: F401  registers them

        ingest.SINKS.append(bank.book)
        ingest.WATCHERS.append(LastUse().note)
        ingest.SWEEPS.append(bank.sweep)
