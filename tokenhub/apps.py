from django.apps import AppConfig


class TokenHubConfig(AppConfig):
    name = "tokenhub"

    def ready(self) -> None:
        from keys import bank
        from telemetry import ingest
        from tokenhub import checks  # noqa: F401  registers them

        ingest.SINKS.append(bank.book)
        ingest.SWEEPS.append(bank.sweep)
