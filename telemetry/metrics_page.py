"""Pages of counters: the sum of several workers' own, and Prometheus' text for it. Written here rather than by the
client library, which takes several times as long for thousands of lines. Pure, short of `of_registry`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from telemetry.metrics import LATENCY_BUCKETS_MS, SPECS, Foreign, Key, Page, Series, Value


def merged(living: Iterable[Page], ended: Iterable[Page] = ()) -> Page:
    """Counters of all; gauges of those who live."""
    at, series, foreign = 0.0, dict[str, dict[Key, Value]](), dict[str, Foreign]()
    for pages, is_alive in ((ended, False), (living, True)):
        for page in pages:
            at = max(at, page.at)
            for name, rows in page.series.items():
                spec = SPECS.get(name)
                if spec is not None and (is_alive or spec.kind != "gauge"):
                    _add(series.setdefault(name, {}), rows, spec.merge)
            for one in page.foreign:
                if is_alive or one.kind != "gauge":
                    _add_foreign(foreign, one)
    return Page(at, {name: list(rows.items()) for name, rows in series.items()}, list(foreign.values()))


def _add(total: dict[Key, Value], rows: Series, merge: str) -> None:
    for key, value in rows:
        before = total.get(key)
        if before is None:
            total[key] = value
        elif isinstance(before, list) and isinstance(value, list):
            total[key] = [one + other for one, other in zip(before, value, strict=True)]
        elif not isinstance(before, list) and not isinstance(value, list):
            total[key] = {"sum": before + value, "max": max(before, value), "min": min(before, value)}[merge]


_NO_SUM: Final = {"process_start_time_seconds": min, "process_max_fds": max, "python_info": max}


def _add_foreign(total: dict[str, Foreign], one: Foreign) -> None:
    before = total.get(one.name)
    if before is None:
        total[one.name] = one
        return
    values = {(name, tuple(sorted(labels.items()))): value for name, labels, value in before.samples}
    join = _NO_SUM.get(one.name)
    for name, labels, value in one.samples:
        key = (name, tuple(sorted(labels.items())))
        known = values.get(key)
        values[key] = value if known is None else join(known, value) if join else known + value
    samples = [(name, dict(labels), value) for (name, labels), value in values.items()]
    total[one.name] = Foreign(one.name, one.kind, one.text, samples)


def of_registry() -> list[Foreign]:
    """What django-prometheus and the client library count in this process."""
    from prometheus_client import REGISTRY

    return [
        Foreign(
            metric.name,
            metric.type,
            metric.documentation,
            [(one.name, dict(one.labels), one.value) for one in metric.samples if not one.name.endswith("_created")],
        )
        for metric in REGISTRY.collect()
    ]


# -- Prometheus' text --------------------------------------------------------------------------------------------------
def render(page: Page) -> bytes:
    """In the text format 0.0.4. A metric without a series has its name and meaning there, too."""
    lines: list[str] = []
    for spec in SPECS.values():
        rows = page.series.get(spec.name, [])
        if not rows and spec.name == "tokenhub_temporal_up":
            continue
        lines += (f"# HELP {spec.name} {spec.text}", f"# TYPE {spec.name} {spec.kind}")
        for key, value in rows:
            labels = ",".join(f'{name}="{_escaped(one)}"' for name, one in zip(spec.labels, key, strict=True))
            if isinstance(value, list):
                lines += _histogram_lines(spec.name, labels, value)
            else:
                shown = repr(float(value) if spec.scale == 1.0 else value * spec.scale)
                lines.append(f"{spec.name}{{{labels}}} {shown}" if labels else f"{spec.name} {shown}")
    for one in page.foreign:
        name = f"{one.name}_total" if one.kind == "counter" else one.name
        kind = "untyped" if one.kind in {"unknown", "info"} else one.kind
        lines += (f"# HELP {name} {_escaped_text(one.text)}", f"# TYPE {name} {kind}")
        for sample, pairs, number in one.samples:
            labels = ",".join(f'{label}="{_escaped(text)}"' for label, text in pairs.items())
            lines.append(f"{sample}{{{labels}}} {number!r}" if labels else f"{sample} {number!r}")
    return ("\n".join(lines) + "\n").encode()


def _histogram_lines(name: str, labels: str, value: list[int | float]) -> Iterable[str]:
    comma, running = "," if labels else "", 0.0
    for limit, count in zip([*map(str, LATENCY_BUCKETS_MS), "+Inf"], value, strict=False):
        running += count
        yield f'{name}_bucket{{{labels}{comma}le="{limit}"}} {running!r}'
    yield f"{name}_count{{{labels}}} {running!r}"
    yield f"{name}_sum{{{labels}}} {float(value[-1])!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
