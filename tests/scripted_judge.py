"""A judge whose answers about criteria come from a table: which apply to a step, and how it scores by each."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rws_cli.judges.base import Judge, Reply

CRITERIA = Path(__file__).parent / "data" / "criteria.yaml"
TREE = yaml.safe_load(CRITERIA.read_text())


def pick(*what: object) -> random.Random:
    """Random numbers that follow from what is asked."""
    return random.Random(hashlib.sha256(repr(what).encode()).digest())


@dataclass
class Table:
    """What a judge thinks of a step, after a number of steps before it: a selection of parents, whether finer criteria are
    needed, and a score by each criterion."""

    seed: int

    def selection(self, step: str) -> tuple[list[str], bool]:
        draw = pick("select", self.seed, step)
        return draw.sample(list(TREE), draw.randint(1, 3)), draw.random() < 0.5

    def score(self, step: str, criterion: str) -> int:
        return pick("score", self.seed, step, criterion).randint(1, 5)


@dataclass
class Scripted(Judge):
    """Answers prompts as a table says, in the order in which the criteria are listed. instead: replies in place of those."""

    table: Table = field(default_factory=lambda: Table(0))
    prompts: list[str] = field(default_factory=list)
    instead: Callable[[str], str | None] = lambda prompt: None

    answers = True

    def load(self, benchmark: Any) -> None:
        pass

    def reply(self, prompts: list[str]) -> list[Reply]:
        assert len(set(prompts)) == len(prompts)
        self.prompts += prompts
        return [Reply(self.instead(p) or scripted(self.table, p), len(p)) for p in prompts]


def sections_of(prompt: str) -> dict[str, str]:
    """The texts below a prompt's headings, [Step] and others."""
    _, *parts = re.split(r"^\[(.+?)\]\n", prompt, flags=re.MULTILINE)
    return {name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def scripted(table: Table, prompt: str) -> str:
    sections = sections_of(prompt)
    step = sections["Step"]
    listed = re.findall(r"^(\d+)\. (.+?): ", sections["Criteria"], re.MULTILINE)
    if '"fine"' in prompt:
        parents, fine = table.selection(step)
        numbers = [int(n) for n, name in listed if name in parents]
        return f"It is about {{sums}}. {json.dumps({'criteria': numbers, 'fine': fine})}"
    return "```json\n" + json.dumps({n: table.score(step, name) for n, name in listed}) + "\n```"
