"""`manage.py simulate`: what the router would do with a request of that kind."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from time import monotonic
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routing.errors import ApiError
from routing.health import Health
from routing.simulation import Question, simulate
from routing.snapshot_build import build_snapshot
from vault.keyring import KEYRING


class Command(BaseCommand):
    help = "What the router would do with a request of that kind, with today's configuration. Nobody is called."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--mode", help="cheap, normal, high_confidence, … (default: the configured one)")
        parser.add_argument("--tokens", type=int, default=1000, help="input tokens (1000)")
        parser.add_argument("--output-tokens", type=int, default=512, help="output tokens (512)")
        parser.add_argument("--max-budget-usd", type=float, help="of the request")
        parser.add_argument("--max-latency-ms", type=float)
        parser.add_argument("--min-weight", type=float, help="0 to 10")
        parser.add_argument("--model", default="", help="what the request names: a model, an alias, tokenhub/<mode>")
        parser.add_argument("--ability", action="append", default=[], help="that it needs, such as vision; repeatable")
        parser.add_argument("--key-id", help="as that client key would be served")
        parser.add_argument("--json", action="store_true", help="as the admin API answers")

    def handle(self, **options: Any) -> None:
        question = Question(
            mode=options["mode"],
            token_count=options["tokens"],
            output_tokens=options["output_tokens"],
            max_budget_usd=options["max_budget_usd"],
            max_latency_ms=options["max_latency_ms"],
            min_weight=options["min_weight"],
            model_hint=options["model"],
            abilities=options["ability"],
            api_key_id=options["key_id"],
        )
        try:
            result = simulate(
                question,
                build_snapshot(),
                Health(),
                vault_open=True if KEYRING.is_untouched else KEYRING.is_open,
                now=monotonic(),
            )
        except ApiError as problem:
            raise CommandError(f"{problem.message} {problem.hint}".rstrip()) from None
        if options["json"]:
            self.stdout.write(json.dumps(result, indent=2))
            return
        self._tell(result)

    def _tell(self, result: dict[str, Any]) -> None:
        decision = result["decision"]
        if decision is None:
            self.stdout.write("No model could answer.")
        else:
            cost = decision["estimated_cost_usd"]
            price = "without a price" if cost is None else f"about ${cost:.6f}"
            self.stdout.write(f"{decision['model_id']} at {decision['provider_id']} ({decision['reason']}), {price}")
        if result["eligible"]:
            self.stdout.write(f"\n{'model':40} {'score':>8} {'cost':>8} {'latency':>8} {'failure':>8} {'capab.':>8}")
        for one in result["eligible"]:
            parts = one["parts"]
            figures = (one["score"], parts["cost"], parts["latency"], parts["failure"], -parts["capability"])
            self.stdout.write(f"{one['model_id']:40} " + " ".join(f"{figure:8.4f}" for figure in figures))
        for one in result["excluded"]:
            self.stdout.write(f"{one['model_id']:40} excluded: {one['excluded_reason']}")
