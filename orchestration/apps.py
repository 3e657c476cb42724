from django.apps import AppConfig


class OrchestrationConfig(AppConfig):
    name = "orchestration"

    def ready(self) -> None:
        from orchestration.models import PromptTemplate
        from routing import changes

        changes.watch(PromptTemplate)
        changes.PROMPTS.append(PromptTemplate.objects.in_force)
