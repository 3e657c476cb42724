"""`manage.py conformance [URL]`: plays golden conversations in every dialect against a gateway, this one or another."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any, NoReturn
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandError

from tokenhub.conformance.gateway import CannotStart, OwnGateway
from tokenhub.conformance.runner import Outcome, Result, Wanted, as_json, counted, lines, run, table
from tokenhub.conformance.upstream import Upstream
from tokenhub.conformance.values import DIALECTS, EMBEDDINGS
from tokenhub.env import address

_BAD_USAGE = 2


class Command(BaseCommand):
    help = "Checks that a gateway is faithful on the wire. Without a URL it starts one of its own."
    requires_system_checks = ()  # it uses neither the database nor the pages of this installation

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("url", nargs="?", default="", help="a running gateway; default: one of the suite's own")
        parser.add_argument("--key", default="", help="the client key for it")
        parser.add_argument("--listen", default="", metavar="ADDR:PORT", help="where the suite's upstream listens")
        parser.add_argument(
            "--model", action="append", default=[], metavar="DIALECT=ID",
            help="the gateway's model behind which the suite's upstream speaks that dialect; once for each",
        )  # fmt: skip
        parser.add_argument("--only", default="", metavar="TEXT", help="cases with that in their name")
        parser.add_argument("--client", action="append", default=[], choices=DIALECTS)
        parser.add_argument("--upstream", action="append", default=[], choices=DIALECTS)
        parser.add_argument(
            "--timeout", type=float, default=300.0, metavar="SECONDS", help="for the whole suite; %(default)s"
        )
        parser.add_argument("--json", action="store_true", help="every result as JSON")

    def handle(self, *args: Any, url: str, key: str, listen: str, model: list[str], **options: Any) -> None:
        host, port, models = _where(url, key, listen, model)
        wanted = Wanted(
            options["only"],
            options["timeout"],
            tuple(options["client"]) or DIALECTS,
            tuple(options["upstream"]) or DIALECTS,
        )
        if not wanted.cases():
            raise CommandError(f"--only: no case has {options['only']!r} in its name.", returncode=_BAD_USAGE)
        signal.signal(signal.SIGTERM, _stop)  # so that the gateway ends with its suite
        try:
            with ExitStack() as stack:
                try:
                    upstream = stack.enter_context(Upstream(host, port))
                except OSError as problem:
                    text = f"--listen: {listen} cannot be used ({problem.strerror})."
                    raise CommandError(text, returncode=_BAD_USAGE) from None
                if not url:
                    own = stack.enter_context(OwnGateway(upstream.url))
                    url, key, models = own.base, own.key, own.models
                results = run(
                    base=url.rstrip("/").removesuffix("/v1"), key=key, models=models, upstream=upstream, wanted=wanted,
                    told=self._told,
                )  # fmt: skip
        except CannotStart as problem:
            raise CommandError(f"The suite's own gateway cannot start: {problem}") from None
        self._report(results, as_data=options["json"])
        if any(one.outcome is Outcome.FAILED for one in results):
            sys.exit(1)

    def _told(self, result: Result) -> None:
        """Progress, for somebody who watches."""
        if self.stderr.isatty():
            signs = {Outcome.PASSED: ".", Outcome.FAILED: "F", Outcome.SKIPPED: "s"}
            self.stderr.write(signs[result.outcome], ending="")
            self.stderr.flush()

    def _report(self, results: list[Result], *, as_data: bool) -> None:
        if self.stderr.isatty():
            self.stderr.write("")
        if as_data:
            self.stdout.write(as_json(results))
            return
        self.stdout.write(table(results))
        self.stdout.write("")
        for line in lines(results):
            self.stdout.write(line)
        self.stdout.write(", ".join(f"{number} {name}" for name, number in counted(results).items()))


def _where(url: str, key: str, listen: str, given: list[str]) -> tuple[str, int, dict[str, str]]:
    """Where the upstream listens, and the models. Raises CommandError."""
    problem = ""
    models = dict(one.partition("=")[::2] for one in given)
    if not url and (key or listen or given):
        problem = "--key, --listen and --model belong to the URL of a running gateway, which is missing."
    elif url and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
        problem = f"{url!r} is no address such as http://127.0.0.1:8080."
    elif url and not (key and listen and models):
        problem = "A running gateway needs --key, --listen and at least one --model; see docs/admin/conformance.md."
    elif unknown := [name for name, id_ in models.items() if name not in {*DIALECTS, EMBEDDINGS} or not id_]:
        problem = f"--model {unknown[0]}: DIALECT=ID is needed, with one of {', '.join([*DIALECTS, EMBEDDINGS])}."
    if problem:
        raise CommandError(problem, returncode=_BAD_USAGE)
    if not listen:
        return "127.0.0.1", 0, models
    try:
        host, _, port = address(listen).rpartition(":")
    except ValueError as wrong:
        raise CommandError(f"--listen: {wrong}.", returncode=_BAD_USAGE) from None
    return host.strip("[]"), int(port), models


def _stop(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
