"""Criteria by which a language model scores texts: a tree of two levels, its replies, and Pareto fronts of scores."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rws_cli.errors import UsageError, first_line
from rws_cli.files import open_regular, read_limited, user_path

LOWEST, HIGHEST = 1, 5
"""The range of a score."""


@dataclass(frozen=True)
class Criterion:
    """name: unique in its tree; a child's is PARENT/CHILD. children: finer criteria, which have none themselves."""

    name: str
    description: str
    children: tuple["Criterion", ...] = ()


def read_tree(path: str, key: str) -> tuple[list[Criterion], str]:
    """The criteria in a YAML or JSON file, and a hash of them, whatever the file's format and order.

    The file holds NAME: {description: TEXT, children: {NAME: TEXT}}, or NAME: TEXT for a criterion without children. Raises
    UsageError naming `key` if it cannot be read or has another form.
    """
    named = f"{key}={path}"
    try:
        with open_regular(user_path(path)) as file:
            content = yaml.safe_load(read_limited(file).decode())  # JSON is YAML, too
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{named} is neither YAML nor JSON: {first_line(error)}.") from error
    form = f"{named} must hold NAME: {{description: …, children: {{NAME: description}}}} for each criterion"
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{form}, and it holds {'nothing' if not content else 'no names'}.")
    parents = [_criterion(name, value, form) for name, value in content.items()]
    names = [each.name for each in flat(parents)]
    if len(set(names)) < len(names):
        raise UsageError(f"{named} has two criteria of the same name: {next(n for n in names if names.count(n) > 1)}.")
    digest = hashlib.sha256(json.dumps(sorted((each.name, each.description) for each in flat(parents))).encode())
    return parents, digest.hexdigest()


def _criterion(name: Any, value: Any, form: str) -> Criterion:
    value = {"description": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or value.keys() - {"description", "children"}:
        raise UsageError(f"{form}, which {name} is not.")
    description, children = value.get("description", ""), value.get("children") or {}
    texts = [name, description, *(children if isinstance(children, dict) else [None])]
    texts += children.values() if isinstance(children, dict) else []
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"{form}, names and descriptions being text, which {name} is not.")
    return Criterion(name, description, tuple(Criterion(f"{name}/{n}", text) for n, text in children.items()))


def flat(parents: Sequence[Criterion]) -> list[Criterion]:
    """Parents, each followed by its children."""
    return [each for parent in parents for each in (parent, *parent.children)]


def shuffled(criteria: Sequence[Criterion], text: str) -> list[Criterion]:
    """Criteria in an order that depends on nothing but their names and a text: judges favor what stands first."""
    return sorted(criteria, key=lambda each: hashlib.sha256(f"{each.name}\n{text}".encode(errors="replace")).digest())


def listed(criteria: Sequence[Criterion]) -> str:
    """Criteria as a numbered list, from 1."""
    return "\n".join(f"{n}. {each.name}: {each.description}" for n, each in enumerate(criteria, 1))


def last_object(reply: str) -> tuple[dict[str, Any], str] | None:
    """The last JSON object in a reply, and the text before it; None if there is none."""
    decoder, end, last = json.JSONDecoder(), 0, None
    for brace in re.finditer(r"\{", reply):
        if brace.start() >= end:
            try:
                value, end = decoder.raw_decode(reply, brace.start())
            except (ValueError, RecursionError):
                continue
            last = value, reply[: brace.start()].strip()
    return last


def read_selection(reply: str, criteria: Sequence[Criterion], most: int) -> tuple[list[Criterion], bool, str] | None:
    """The criteria that a reply selects, 1 to `most` of a numbered list; whether finer ones are needed; and the words before.
    None if the reply does not say."""
    value, analysis = last_object(reply) or ({}, "")
    numbers, fine = value.get("criteria"), value.get("fine")
    if not isinstance(numbers, list) or not isinstance(fine, bool):
        return None
    valid = [n for n in numbers if type(n) is int and 1 <= n <= len(criteria)]
    if not len(numbers) == len(valid) == len(set(valid)) or not 1 <= len(valid) <= most:
        return None
    return [criteria[n - 1] for n in sorted(valid)], fine, analysis


def read_scores(reply: str, criteria: Sequence[Criterion]) -> dict[str, int] | None:
    """The score of each criterion of a numbered list, by name; None if the reply lacks one or has one out of range."""
    value, _ = last_object(reply) or ({}, "")
    scores = {each.name: value.get(str(n)) for n, each in enumerate(criteria, 1)}
    valid = {name: n for name, n in scores.items() if type(n) is int and LOWEST <= n <= HIGHEST}
    return valid if len(valid) == len(scores) else None


def fronts(vectors: Sequence[Sequence[float]]) -> list[int]:
    """The Pareto front of each vector: 0 if no other dominates it, 1 if only vectors of front 0 do, and so on."""
    number: dict[int, int] = {}
    while left := [n for n in range(len(vectors)) if n not in number]:
        front = max(number.values(), default=-1) + 1
        number |= {n: front for n in left if not any(dominates(vectors[m], vectors[n]) for m in left)}
    return [number[n] for n in range(len(vectors))]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a is nowhere lower than b, and somewhere higher."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))
