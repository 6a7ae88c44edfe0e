"""The base class of rewards: they score texts in one batched call and report the tokens that they read."""

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
UNIFORM = Statistics(mean=0.5, std=12**-0.5, min=0.0, max=1.0)
"""Of a uniform distribution on [0, 1]."""


@dataclass(frozen=True)
class Candidate:
    """A completion to score, finished or intermediate.

    text: with masks completed, dropped or kept. progress: the share of its tokens that are committed. step: the decoding
    step, from 0; −1 for a finished completion. blocks: the text up to the end of each block, if there are several. slot:
    the same for successive texts of one completion, so that a reward can reuse what it computed for the last one.
    """

    example: Example
    text: str
    progress: float
    step: int
    blocks: tuple[str, ...] = ()
    slot: int | None = None


@dataclass(frozen=True)
class Scores:
    """For each candidate a score, and the tokens that a model read for it (0 without a model)."""

    values: list[float]
    tokens: list[int]


@settings
class Reward(Part):
    """The settings of a reward; `loaded` returns a copy that can score.

    normalization: statistics of its scores; None if none are stored, in which case guidance needs normalize=none.
    """

    name: str = setting("what tables and run folders call it")

    role = "reward"
    scores: ClassVar[bool] = True
    """Whether it can score."""
    can_be_component: ClassVar[bool] = True
    """Whether it can be a component of another reward."""
    stateless: ClassVar[Any] = False
    """Whether the score depends on example and text alone, so that unchanged text need not be scored again."""
    gradients: ClassVar[Any] = False
    """Whether it has a transformers `model` and `tokenizer` that accept embeddings, for gradients of the score."""

    judged: ClassVar[bool] = False
    """Whether a judge's replies make the scores, so that `plan` says what they take."""
    compares: ClassVar[bool] = False
    """Whether completions of one prompt are compared by `compare`, not by their scores."""

    normalization = None  # type: Statistics | None

    def loaded(self, benchmark: Any, seed: int, key: str = "reward") -> Self:
        """A copy that can score. key: the key of its settings. Raises UsageError if something that it needs is missing."""
        made = loaded(self, key, benchmark, seed, key)
        if not isinstance(made.normalization, Statistics | None):
            raise UsageError(
                f"{key}.kind={self.kind}: normalization={made.normalization} must be Statistics(mean, std, min, max) or None."
            )
        return made

    def load(self, benchmark: Any, seed: int, key: str) -> None:
        """Load what scoring needs into attributes. benchmark: grades completions. key: the key of its settings."""

    def score(self, candidates: list[Candidate]) -> Scores:
        raise NotImplementedError

    def compare(self, candidates: list[Candidate]) -> Scores:
        """Values that order finished completions of one prompt, if the reward `compares`. tokens: read beyond those of `score`."""
        raise NotImplementedError

    def records(self, candidates: list[Candidate]) -> list[dict[str, Any]]:
        """Fields for the samples of finished completions, besides their scores."""
        return [{} for _ in candidates]

    def plan(self, key: str, texts: int, compared: int, characters: int) -> dict[str, int | str]:
        """What asking a judge takes at most, by name; empty if it asks none. key: of its settings; texts: scored; compared:
        those that are compared, too; characters: of a prompt and its completion. Raises UsageError if that may cost too much."""
        return {}

    def forget(self, slots: Sequence[int] | None = None) -> None:
        """Drop cached state of these slots, or of all, because other completions take them."""

    def depends_on(self) -> list[Statistics]:
        """Statistics on which its scores depend."""
        return []


def ask(reward: Reward, candidates: list[Candidate], compare: bool = False) -> Scores:
    """A reward's scores, or what it compares by, checked. Raises RunError if it fails for any other reason than lack of memory, or does not return a
    finite number and a count of tokens for each candidate."""
    try:
        returned = reward.compare(candidates) if compare else reward.score(candidates)
    except (UsageError, RunError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise RunError(f"The reward failed: {type(error).__name__}: {error}.") from error
    try:
        scores = Scores([float(value) for value in returned.values], [int(count) for count in returned.tokens])
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(
            f"The reward returned {shorten(repr(returned), 80)}, which is not Scores(values, tokens): {error}."
        ) from error
    if not len(scores.values) == len(scores.tokens) == len(candidates):
        raise RunError(
            f"The reward returned {len(scores.values)} scores and {len(scores.tokens)} counts of tokens for "
            f"{len(candidates)} candidates: it must return one of each."
        )
    for candidate, value in zip(candidates, scores.values, strict=True):
        if not math.isfinite(value):
            raise RunError(
                f"The reward model returned {value} for example {candidate.example.id}, which is not a score: check the "
                "reward model and its dtype."
            )
    return scores


def read_statistics(path: Path, key: str) -> dict[str, Any]:
    """The content of a normalization file. Raises UsageError naming `key` if it is missing or its mean, std, min and max are
    not valid."""
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


def statistics_at(file: str | None, key: str) -> Statistics | None:
    """The statistics in a file; None without a file. key: of the setting. Raises UsageError as `read_statistics` does."""
    return as_statistics(read_statistics(Path(file), key)) if file else None
