from django.apps import AppConfig


class TokenHubConfig(AppConfig):
    name = "tokenhub"
