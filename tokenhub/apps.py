from django.apps import AppConfig


class TokenHubConfig(AppConfig):
    name = "tokenhub"

    def ready(self) -> None:
        from tokenhub import checks  # noqa: F401  registers them
