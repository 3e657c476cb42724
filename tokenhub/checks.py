"""`manage.py check` explains settings that the environment gives wrongly, and a credentials file that is unusable."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning


@register()
def environment_is_understood(**_: Any) -> list[CheckMessage]:
    fatal = settings.ENV.fatal
    return [
        (Error if (name, problem) in fatal else CheckWarning)(f"{name}: {problem}.", id="tokenhub.W001")
        for name, problem in settings.ENV.problems
    ]


@register()
def celery_has_a_broker(**_: Any) -> list[CheckMessage]:
    if settings.TOKENHUB_JOBS != "celery" or settings.TOKENHUB_REDIS_URL:
        return []
    return [CheckWarning("TOKENHUB_JOBS: celery needs TOKENHUB_REDIS_URL; no job will run.", id="tokenhub.W003")]


@register()
def credentials_file_is_usable(**_: Any) -> list[CheckMessage]:
    from tokenhub import credentials_file

    try:
        credentials_file.read(settings.TOKENHUB_CREDENTIALS_FILE)
    except FileNotFoundError:
        pass
    except credentials_file.Unusable as problem:
        return [CheckWarning(problem.message, id="tokenhub.W002")]
    return []
