"""Recorded outcomes of several models on the same prompts: rows, contexts, the parts for tuning and reporting."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from routing.bandit import Context, context_of

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT.parent / "shared" / "routing-data"
BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Table:
    """`rewards`, `costs`: rows by arms. `contexts`: what a gateway knows; `tagged`: with the source as application."""

    name: str
    arms: list[str]
    rewards: np.ndarray
    costs: np.ndarray
    prompts: list[str]
    contexts: list[Context]
    tagged: list[Context]
    sources: list[str]
    has_costs: bool

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, rows: np.ndarray) -> Table:
        pick = rows.tolist()
        return Table(
            self.name,
            self.arms,
            self.rewards[rows],
            self.costs[rows],
            [self.prompts[one] for one in pick],
            [self.contexts[one] for one in pick],
            [self.tagged[one] for one in pick],
            [self.sources[one] for one in pick],
            self.has_costs,
        )

    def without(self, arm: str) -> Table:
        keep = [position for position, name in enumerate(self.arms) if name != arm]
        return Table(
            self.name,
            [self.arms[one] for one in keep],
            self.rewards[:, keep],
            self.costs[:, keep],
            self.prompts,
            self.contexts,
            self.tagged,
            self.sources,
            self.has_costs,
        )


def folder() -> Path:
    return Path(os.environ.get("ROUTING_DATA", DEFAULT))


def tables(paths: list[Path] | None = None) -> list[Table]:
    """Of the files given, or of all in the folder. Ends the program with a plain sentence when there is none."""
    if not paths:
        place = folder()
        paths = [place] if place.is_file() else sorted(place.glob("*.jsonl"))
        if not paths:
            sys.exit(
                f"There are no *.jsonl files in {place}. Set ROUTING_DATA to the folder with the recorded outcomes."
            )
    return [load(path) for path in paths]


def load(path: Path) -> Table:
    """Rows that lack an arm are left out, as are arms that lack in more than a fifth of the rows."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    seen: dict[str, int] = {}
    for row in rows:
        for arm in row["arms"]:
            seen[arm] = seen.get(arm, 0) + 1
    arms = [arm for arm, count in seen.items() if count >= 0.8 * len(rows)]
    rows = [row for row in rows if all(arm in row["arms"] for arm in arms)]
    rewards = np.array([[float(row["arms"][arm]["reward"]) for arm in arms] for row in rows])
    costs = np.array([[float(row["arms"][arm].get("cost") or 0.0) for arm in arms] for row in rows])
    contexts = [context_of(input_tokens=len(row["prompt"]) // BYTES_PER_TOKEN, text=row["prompt"]) for row in rows]
    sources = [str(row.get("source", "")) for row in rows]
    tagged = [context._replace(tag=source) for context, source in zip(contexts, sources, strict=True)]
    short = [arm.rsplit("/", 1)[-1] for arm in arms]
    names = short if len(set(short)) == len(short) else arms
    return Table(
        path.stem, names, rewards, costs, [row["prompt"] for row in rows], contexts, tagged, sources, bool(costs.any())
    )


def split(table: Table, share: float = 1 / 3) -> tuple[Table, Table]:
    """For tuning and for reporting: by a hash of the prompt, so that a prompt is on one side whatever the file."""
    first = np.array([crc32(prompt.encode()) % 9973 < share * 9973 for prompt in table.prompts])
    return table.part(np.flatnonzero(first)), table.part(np.flatnonzero(~first))


class Words:
    """Prompts as vectors, for the published policy, which works on embeddings: weighted words, hashed, projected on the
    main components of the tuning part, each of unit variance, and a constant."""

    def __init__(self, prompts: list[str], components: int = 25, width: int = 2048) -> None:
        self._width = width
        counts = self._counts(prompts)
        self._rarity = np.log((1 + len(prompts)) / (1 + (counts > 0).sum(0))) + 1
        weighted = self._weighted(counts)
        self._mean = weighted.mean(0)
        _, _, axes = np.linalg.svd(weighted - self._mean, full_matrices=False)
        self._axes = axes[:components]
        self._scale = ((weighted - self._mean) @ self._axes.T).std(0) + 1e-9

    def vectors(self, prompts: list[str]) -> np.ndarray:
        weighted = self._weighted(self._counts(prompts))
        found = ((weighted - self._mean) @ self._axes.T) / self._scale / np.sqrt(len(self._axes))
        return np.hstack([found, np.ones((len(prompts), 1))])

    def _counts(self, prompts: list[str]) -> np.ndarray:
        counts = np.zeros((len(prompts), self._width))
        for row, prompt in enumerate(prompts):
            for word in re.findall(r"\w+|[^\w\s]", prompt.lower()):
                counts[row, crc32(word.encode()) % self._width] += 1
        return counts

    def _weighted(self, counts: np.ndarray) -> np.ndarray:
        weighted = np.log1p(counts) * self._rarity
        return weighted / (np.linalg.norm(weighted, axis=1, keepdims=True) + 1e-9)
