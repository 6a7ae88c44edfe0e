"""What a reward is: it scores texts in one batched call, and says how many tokens it read."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Self

from rws_cli.benchmarks.base import Example
from rws_cli.config.renamed import SCHEMA, rename_record, rename_settings
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import RunError, UsageError, out_of_memory
from rws_cli.part import Part, loaded, setting, settings

STATISTICS = ("mean", "std", "min", "max")


@dataclass(frozen=True)
class Candidate:
    """A whole or intermediate answer: its text (masks filled, dropped or kept), the share of it that is committed,
    the decoding step (−1 for a finished answer), and its text as far as the end of each block if it has several.

    slot: the same for successive texts of one answer, by which a reward may find what it kept of the last.
    """

    example: Example
    text: str
    progress: float
    step: int
    blocks: tuple[str, ...] = ()
    slot: int | None = None


@dataclass(frozen=True)
class Scores:
    """A score for each candidate, and the tokens that went through a model to get it (0 where none did)."""

    values: list[float]
    tokens: list[int]


@settings
class Reward(Part):
    """Settings; `loaded` gives a copy that scores, with whatever it needs as plain attributes.

    normalization: of that copy, None where no statistics were stored; then only sampler.guidance.normalize=none can use
    the reward.
    """

    name: str = setting("what tables and run folders call it")

    role = "reward"
    scores: ClassVar[bool] = True
    """Whether there is anything to score with."""
    can_be_component: ClassVar[bool] = True
    """Whether another reward may be made of it."""
    stateless: ClassVar[Any] = False
    """Whether the score of a text depends on example and text alone: then unchanged text may be scored from memory."""
    gradients: ClassVar[Any] = False
    """Whether it has `model` and `tokenizer` of transformers that take embeddings, for gradients of its score."""

    normalization = None  # type: Statistics | None

    def loaded(self, benchmark: Any, seed: int, at: str = "reward") -> Self:
        """A copy that scores. at: the key of its settings. Raises UsageError if something that it needs is missing."""
        made = loaded(self, at, benchmark, seed, at)
        if not isinstance(made.normalization, Statistics | None):
            raise UsageError(
                f"{at}.kind={self.kind}: normalization={made.normalization} must be Statistics(mean, std, min, max) or None."
            )
        return made

    def load(self, benchmark: Any, seed: int, at: str) -> None:
        """Read what scoring needs into attributes of this copy. benchmark: what grades answers."""

    def score(self, candidates: list[Candidate]) -> Scores:
        raise NotImplementedError

    def forget(self, slots: Sequence[int] | None = None) -> None:
        """Drop what was kept of earlier texts in these slots, or in all: other answers take them."""

    def depends_on(self) -> list[Statistics]:
        """Statistics that scores are made with."""
        return []


def ask(reward: Reward, candidates: list[Candidate]) -> Scores:
    """A reward's scores, whoever wrote it. Raises RunError if it fails, but for lack of memory, or does not return one
    finite number and one count of tokens for each candidate."""
    try:
        found = reward.score(candidates)
    except (UsageError, RunError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise RunError(f"The reward failed: {type(error).__name__}: {error}.") from error
    try:
        scores = Scores([float(value) for value in found.values], [int(count) for count in found.tokens])
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(
            f"The reward returned {shorten(repr(found), 80)}, which is no Scores(values, tokens): {error}."
        ) from error
    if not len(scores.values) == len(scores.tokens) == len(candidates):
        raise RunError(
            f"The reward returned {len(scores.values)} scores and {len(scores.tokens)} counts of tokens for "
            f"{len(candidates)} candidates: it must return one of each."
        )
    for candidate, value in zip(candidates, scores.values, strict=True):
        if not math.isfinite(value):
            raise RunError(
                f"The reward model returned {value} for example {candidate.example.id}, which is no score: check the "
                "reward model and its dtype."
            )
    return scores


def read_statistics(path: Path, key: str) -> dict[str, Any]:
    """A normalization file. Raises UsageError naming `key` if it is missing, or its mean, std, min and max are no statistics."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{key}: there are no normalization statistics at {path}.") from error
    except OSError as error:
        raise UsageError(f"{key}: {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{key}: {path} is not JSON: {error}.") from error
    if not isinstance(stored, dict):
        raise UsageError(f"{key}: {path} must hold an object with {', '.join(STATISTICS)}.")
    if (schema := stored.get("schema", 1)) != SCHEMA and isinstance(schema, int):
        rename_record("normalization.json", stored, schema)
        rename_settings(stored.get("calibrated"))
    if missing := [name for name in STATISTICS if name not in stored]:
        raise UsageError(f"{key}: {path} lacks {', '.join(missing)}.")
    for name in STATISTICS:
        value = stored[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"{key}: {path} has {name}={json.dumps(value)}, which must be a number.")
    if stored["std"] < 0 or stored["min"] > stored["max"]:
        raise UsageError(f"{key}: {path} must have a std of at least 0, and a min that is at most max.")
    return stored


def as_statistics(stored: dict[str, Any]) -> Statistics:
    return Statistics(*(float(stored[name]) for name in STATISTICS))


def statistics_at(file: str | None, at: str) -> Statistics | None:
    """What a file of the setting `at` has, None without a file. Raises UsageError as `read_statistics` does."""
    return as_statistics(read_statistics(Path(file), at)) if file else None
