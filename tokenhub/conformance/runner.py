"""Plays the cases and tells how they went."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import product
from time import monotonic

import httpx

from tokenhub.conformance.cases import CASES, Case
from tokenhub.conformance.play import PATIENCE_SECONDS, Play, Skipped
from tokenhub.conformance.speaks import CLIENTS
from tokenhub.conformance.upstream import Upstream
from tokenhub.conformance.values import CHAT, DIALECTS, MESSAGES, RESPONSES, BrokenRule

_SHORT = {CHAT: "chat", MESSAGES: "messages", RESPONSES: "responses"}


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """`upstream` is empty for a case in which no upstream has a part. `reason` of what did not pass."""

    case: str
    client: str
    upstream: str
    stream: bool
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the suite is to be played; empty: all. What is not played after `seconds` counts as failed."""

    only: str = ""
    seconds: float = 300.0
    clients: tuple[str, ...] = DIALECTS
    upstreams: tuple[str, ...] = DIALECTS

    def cases(self) -> list[Case]:
        return [case for case in CASES if self.only.lower() in case.name.lower()]


def run(
    *,
    base: str,
    key: str,
    models: Mapping[str, str],
    upstream: Upstream,
    wanted: Wanted,
    told: Callable[[Result], None],
) -> list[Result]:
    """`models`: the gateway's model for each dialect of the upstream. `told` hears each result as it comes."""
    results = []
    until = monotonic() + wanted.seconds
    limits = httpx.Timeout(PATIENCE_SECONDS, connect=5)
    with httpx.Client(base_url=base, timeout=limits, trust_env=False) as http:
        for case, client, dialect, stream in _plays(wanted):
            model = models.get(dialect) if dialect else next(iter(models.values()), None)
            if model is None:
                result = Result(
                    case.name, client, dialect, stream, Outcome.SKIPPED, f"no model was named for {dialect}"
                )
            elif monotonic() > until:
                result = Result(case.name, client, dialect, stream, Outcome.FAILED, "the suite's time was up before")
            else:
                play = Play(http, key, CLIENTS[client], upstream, dialect, model, stream, models)
                outcome, reason = _outcome(case, play)
                result = Result(case.name, client, dialect, stream, outcome, reason)
            results.append(result)
            told(result)
    return results


def _plays(wanted: Wanted) -> Iterator[tuple[Case, str, str, bool]]:
    for case in wanted.cases():
        clients = [one for one in case.clients if one in wanted.clients]
        upstreams = [one for one in case.upstreams if one in wanted.upstreams or one not in DIALECTS]
        for client, dialect, stream in product(clients, upstreams if case.upstreams else [""], case.modes):
            yield case, client, dialect, stream


def _outcome(case: Case, play: Play) -> tuple[Outcome, str]:
    try:
        case.play(play)
    except Skipped as reason:
        return Outcome.SKIPPED, str(reason)
    except BrokenRule as problem:
        return Outcome.FAILED, str(problem)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as problem:
        return Outcome.FAILED, f"the answer has another shape than expected: {problem!r}"
    return Outcome.PASSED, ""


# -- how it went -----------------------------------------------------------------------------------------------------
def table(results: Sequence[Result]) -> str:
    """A row for each case, a column for each pair; each cell tells of the whole answer, then of the stream."""
    pairs = [(client, upstream) for client, upstream in product(DIALECTS, DIALECTS)]
    pairs = [pair for pair in pairs if any((one.client, one.upstream) == pair for one in results)]
    names = list(dict.fromkeys(one.case for one in results))
    left = max([len(name) for name in names], default=0)
    heads = [(f"{_SHORT[client]}", f"→{_SHORT[upstream]}") for client, upstream in pairs]
    widths = [max(len("FAIL FAIL"), *map(len, head)) for head in heads]
    lines = []
    for row in (0, 1):
        cells = [head[row].ljust(width) for head, width in zip(heads, widths, strict=True)]
        lines.append("  ".join([("client" if row == 0 else "→upstream").ljust(left), *cells]).rstrip())
    signs = {Outcome.PASSED: "ok", Outcome.FAILED: "FAIL", Outcome.SKIPPED: "-"}
    for name in names:
        cells = []
        for pair, width in zip(pairs, widths, strict=True):
            found = [one for one in results if one.case == name and one.client == pair[0]]
            found = [
                one
                for one in found
                if one.upstream == pair[1] or (one.upstream not in DIALECTS and pair == _first(pairs, pair[0]))
            ]
            cells.append(" ".join(signs[one.outcome] for one in found).ljust(width))
        lines.append("  ".join([name.ljust(left), *cells]).rstrip())
    return "\n".join(lines)


def _first(pairs: Sequence[tuple[str, str]], client: str) -> tuple[str, str]:
    """Where the results stand in which no dialect of the upstream's has a part."""
    return next(pair for pair in pairs if pair[0] == client)


def lines(results: Sequence[Result]) -> list[str]:
    """A line for each failure, and one for each reason to skip."""
    shown = []
    for one in results:
        if one.outcome is Outcome.FAILED:
            way = f"{one.client} → {one.upstream}" if one.upstream else one.client
            shown.append(f"FAILED  {one.case}, {way}, {'stream' if one.stream else 'whole'}: {one.reason}")
    skipped = Counter(one.reason for one in results if one.outcome is Outcome.SKIPPED)
    shown += [f"skipped {count}: {reason}" for reason, count in skipped.items()]
    return shown


def counted(results: Sequence[Result]) -> dict[str, int]:
    return {outcome.value: sum(one.outcome is outcome for one in results) for outcome in Outcome}


def as_json(results: Sequence[Result]) -> str:
    return json.dumps({**counted(results), "results": [asdict(one) for one in results]}, ensure_ascii=False, indent=2)
