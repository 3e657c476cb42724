from django.apps import AppConfig


class OrchestrationConfig(AppConfig):
    name = "orchestration"

    def ready(self) -> None:
        from django.conf import settings

        from orchestration.models import PromptTemplate
        from routing import changes

        changes.watch(PromptTemplate)
        changes.PROMPTS.append(PromptTemplate.objects.in_force)
        if settings.TOKENHUB_TEMPORAL_ENABLED:
            from orchestration.temporal.gate import Gate
            from orchestration.worker import DURABLY

            DURABLY[:] = [Gate]
