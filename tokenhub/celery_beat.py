"""Beat's memory is the jobs' rows, not a file: a restart neither forgets a daily job nor repeats one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import django
from celery.beat import Scheduler as CeleryScheduler
from django.apps import apps


class Scheduler(CeleryScheduler):  # type: ignore[misc]  # Celery has no types
    def setup_schedule(self) -> None:
        super().setup_schedule()
        if not apps.ready:
            django.setup()
        from tokenhub import job_runs
        from tokenhub.jobs import JOBS
        from tokenhub.models import JobState

        job_runs.ensure(job_runs.this_host())
        entries: dict[str, Any] = self.schedule
        for name, next_at in JobState.objects.filter(host="", next_at__isnull=False).values_list("name", "next_at"):
            if name in entries and next_at is not None:
                entries[name].last_run_at = next_at - timedelta(seconds=JOBS[name].every_seconds)
