"""Rows of the time series. One row holds every measure of its span and labels: a row for each measure cost 3.5 times as
much to write and twice the disk, and was no faster to read (200 series, 8 measures, SQLite: 1.9 and 6.9 ms a batch, 73
and 151 KiB a minute, 150 and 170 ms to merge the sketches of four hours). A span is told by its beginning, in seconds
since 1970, and its length; a series by a digest of its labels, so that nobody looks one up before writing."""

from __future__ import annotations

from typing import Final

from django.db import models


class Span(models.IntegerChoices):
    """The levels, by the length of their spans in seconds."""

    MINUTE = 60, "one minute"
    HOUR = 3600, "one hour"
    DAY = 86_400, "one day"


SIX_HOURS: Final = 21_600
"""Rows of six hours are made when their day is rolled up, and good for as long as it is; they are kept as long as those
of an hour. Charts of a week are read from them; nothing else needs to know them."""


class SeriesLevel(models.Model):
    """How long rows of a level are kept. Whoever writes rows locks these three first."""

    span = models.PositiveIntegerField(primary_key=True, choices=Span.choices)
    days = models.PositiveIntegerField()
    pruned_until = models.BigIntegerField(default=0, editable=False, help_text="Earlier spans are not kept any more.")

    class Meta:
        ordering = ["span"]
        verbose_name = "time series level"

    def __str__(self) -> str:
        return f"{Span(self.span).label}, {self.days} days"


class Series(models.Model):
    """The labels of a series; `id` is their digest."""

    id = models.BigIntegerField(primary_key=True)
    model_id = models.CharField(max_length=200, blank=True)
    provider_id = models.CharField(max_length=200, blank=True)
    project = models.CharField(max_length=200, blank=True)
    mode = models.CharField(max_length=60, blank=True)
    error_class = models.CharField(max_length=60, blank=True)

    class Meta:
        verbose_name = "time series"
        verbose_name_plural = "time series"

    def __str__(self) -> str:
        told = (self.model_id, self.provider_id, self.project, self.mode, self.error_class)
        return " ".join(one or "-" for one in told)


class Sample(models.Model):
    """One span of one series. Of each measure: how many requests had it, the sum, the least, the largest, and a sketch
    (see telemetry.sketch), in whole numbers of its unit."""

    pk = models.CompositePrimaryKey("span", "at", "series")
    span = models.PositiveIntegerField(choices=Span.choices)
    at = models.BigIntegerField()
    series = models.BigIntegerField()
    requests = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0)
    rate_limited = models.BigIntegerField(default=0)
    affinity_hits = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = "time series sample"

    def __str__(self) -> str:
        return f"{self.span} {self.at} {self.series}"


COUNTERS = ("requests", "errors", "rate_limited", "affinity_hits")
MEASURES = (
    "latency_ms", "time_to_first_chunk_ms", "cost_nano", "input_tokens", "output_tokens", "cached_input_tokens",
    "reward_nano",
)  # fmt: skip
PARTS = ("count", "sum", "min", "max", "sketch")
for _measure in MEASURES:
    for _part in PARTS:
        _field: models.Field[object, object] = (
            models.BinaryField(default=b"") if _part == "sketch" else models.BigIntegerField(default=0)
        )
        Sample.add_to_class(f"{_measure}_{_part}", _field)


class SeriesUnrolled(models.Model):
    """An hour or a day that got something since it was last rolled up. Its rows are not to be read: what they are made
    of is."""

    pk = models.CompositePrimaryKey("span", "at")
    span = models.PositiveIntegerField(choices=Span.choices)
    at = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.span} {self.at}"
