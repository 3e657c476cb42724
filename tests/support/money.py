"""Many clients, a few workers, and somebody who kills them: what a run left in the books.

    report = run(gateway, upstream, clients=16, seconds=10, kills=4, query=…)
    report.check()

Clients ask whole answers and streams of random length, leave some streams, and meet faults. What they saw finished is
held against the request log, and the log against the budgets."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.support.gateway import Gateway
from tests.support.upstream import Fault, Reply, Upstream

NANO = 1_000_000_000
Query = Callable[[str], list[dict[str, Any]]]
_FAULTS = (Fault.RESET_BEFORE_HEAD, Fault.RESET_MIDWAY, Fault.CLOSE_MIDWAY, Fault.NO_TERMINAL_EVENT, Fault.ERROR_EVENT)


@dataclass
class Report:
    """`finished`: ids of requests whose answer arrived to its end. Amounts in nano-dollars."""

    finished: list[str] = field(default_factory=list)
    refused: int = 0
    left: int = 0
    broken: int = 0
    kills: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    periods: list[dict[str, Any]] = field(default_factory=list)
    leases: int = 0
    problems: list[str] = field(default_factory=list)

    def audit(self) -> None:
        """Fills `problems`."""
        by_id: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            by_id.setdefault(_plain(row["request_id"]), []).append(row)
        for request_id in self.finished:
            found = by_id.get(_plain(request_id), [])
            if len(found) != 1:
                self.problems.append(f"{request_id} was finished and is logged {len(found)} times")
            elif not _nano(found[0]["cost_usd"]):
                self.problems.append(f"{request_id} was finished and cost nothing")
        for period in self.periods:
            settled, overrun = period["settled_nano"], period["overrun_nano"]
            cap = round(float(period["amount_usd"]) * NANO)
            concerned = [
                row for row in self.rows
                if period["subject"] == "installation"
                or (period["subject"] == "project" and row["project"] == period["subject_id"])
                or _plain(row["api_key_id"]) == _plain(period["subject_id"])
            ]  # fmt: skip
            logged = sum(_nano(row["cost_usd"]) for row in concerned)
            whose = f"{period['subject']} {period['subject_id']}"
            if settled > cap:
                self.problems.append(f"{whose}: {settled} settled of {cap}")
            if settled + overrun != logged:
                self.problems.append(f"{whose}: {settled} + {overrun} settled, {logged} logged")
            if period["leased_nano"] != 0:
                self.problems.append(f"{whose}: {period['leased_nano']} still leased")
        if self.leases:
            self.problems.append(f"{self.leases} leases left")

    @property
    def summary(self) -> str:
        share = ", ".join(
            f"{period['subject']} {period['settled_nano'] / NANO / float(period['amount_usd']):.2%}"
            for period in self.periods
        )
        return (
            f"{len(self.finished)} finished, {self.refused} refused, {self.left} left, {self.broken} broken off, "
            f"{self.kills} kills, used: {share}"
        )


def _plain(request_id: object) -> str:
    return str(request_id).replace("-", "")


def _nano(cost: object) -> int:
    return 0 if cost is None else round(float(str(cost)) * NANO)


def run(
    gateway: Gateway,
    upstream: Upstream,
    *,
    keys: Sequence[str],
    clients: int,
    seconds: float,
    kills: int,
    query: Query,
    seed: int = 1,
) -> Report:
    """The gateway runs, with budgets. Ends when a time of calm has settled everything."""
    report, lock, over = Report(), threading.Lock(), threading.Event()
    rng = random.Random(seed)
    threads = [
        threading.Thread(target=_client, args=(gateway, keys, random.Random(seed + 1 + n), report, lock, over))
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(seconds / (kills + 1) * rng.uniform(0.7, 1.3))
        if _kill_a_worker(gateway, rng):
            report.kills += 1
        for _ in range(rng.randrange(4)):
            upstream.next(Reply(fault=rng.choice(_FAULTS), usage=_usage(rng)))
    time.sleep(seconds / (kills + 1))
    over.set()
    for thread in threads:
        thread.join(timeout=60)
    upstream.forget()
    _use_up(gateway, keys, report)
    gateway.stop()  # gives back what is held
    gateway.start()  # reads what is left of journals
    _settle(query, report)
    return report


def _usage(rng: random.Random) -> dict[str, int]:
    tokens = rng.randrange(1, 60)
    return {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}


def _client(
    gateway: Gateway,
    keys: Sequence[str],
    rng: random.Random,
    report: Report,
    lock: threading.Lock,
    over: threading.Event,
) -> None:
    while not over.is_set():
        stream, leaves = rng.random() < 0.5, rng.random() < 0.2
        leave_after = rng.randrange(1, 400) if leaves else 0
        outcome, request_id = _ask(gateway, rng.choice(keys), stream=stream, leave_after=leave_after)
        with lock:
            _note(report, outcome, request_id)
        if outcome == "refused":
            over.wait(0.05)


def _note(report: Report, outcome: str, request_id: str) -> None:
    match outcome:
        case "finished":
            report.finished.append(request_id)
        case "refused":
            report.refused += 1
        case "left":
            report.left += 1
        case _:
            report.broken += 1


def _ask(gateway: Gateway, key: str, *, stream: bool, leave_after: int = 0) -> tuple[str, str]:
    """What came of one request, and its id."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64, "stream": stream}
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        request_id = answer.headers.get("x-tokenhub-request-id", "")
        if answer.status == 429:
            return "refused", request_id
        if answer.status != 200:
            return "broken", request_id
        if leave_after and stream:
            answer.read(leave_after)
            return "left", request_id
        data = answer.read()
        is_whole = data.endswith(b"data: [DONE]\n\n") if stream else b'"usage"' in data
        return "finished" if is_whole and b'"error"' not in data else "broken", request_id
    except (TimeoutError, OSError, HTTPException):
        return "broken", ""
    finally:
        connection.close()


def _kill_a_worker(gateway: Gateway, rng: random.Random) -> bool:
    assert gateway.process is not None
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    if not children:
        return False
    with suppress(ProcessLookupError):
        os.kill(int(rng.choice(children)), signal.SIGKILL)
        return True
    return False


def _use_up(gateway: Gateway, keys: Sequence[str], report: Report) -> None:
    """Small requests, until each key was refused for a while: longer than any lease of a dead worker is kept."""
    for key in keys:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            outcome, request_id = _ask(gateway, key, stream=False)
            _note(report, outcome, request_id)
            if outcome == "finished":
                until = time.monotonic() + 6
            else:
                time.sleep(0.2)


_PERIODS = (
    "SELECT b.subject, b.subject_id, b.amount_usd, p.settled_nano, p.leased_nano, p.overrun_nano "
    "FROM keys_budgetperiod p JOIN keys_budget b ON b.id = p.budget_id ORDER BY b.id"
)


def _settle(query: Query, report: Report) -> None:
    """Until the books stand still."""
    last: object = None
    until = time.monotonic() + 30
    while time.monotonic() < until:
        report.periods = query(_PERIODS)
        report.rows = query("SELECT request_id, api_key_id, project, cost_usd FROM telemetry_requestlog")
        report.leases = int(query("SELECT count(*) AS n FROM keys_lease")[0]["n"])
        now = (str(report.periods), len(report.rows), report.leases)
        if now == last and not report.leases:
            return
        last = now
        time.sleep(1.2)
