"""What the files of a run must hold. A folder may come from anyone: it is read as these forms say, or refused.

Forms name what is read somewhere. More fields may stand beside them; they are kept as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.errors import printable

SCHEMA = 1
"""The version of these forms. A run of a later one is refused."""
DEEPEST = 30
"""Levels of nesting in what a form leaves open."""

strict = with_config(ConfigDict(strict=True, extra="allow"))


def _plain(field: str, value: Any, levels: int = DEEPEST) -> None:
    """Raises ValueError if a field's value could not be written as JSON again: nested too deeply, or not finite."""
    if not levels:
        raise ValueError(f"{field}: it is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{field}: it holds a number that is not finite")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _plain(field, inner, levels - 1)


def _with(*names: str) -> AfterValidator:
    """A mapping that has some entries, among others."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{missing[0]} is missing")
        return values

    return AfterValidator(check)


def _text(value: Any) -> str:
    """Unlike pydantic's text it may have lone surrogates, as a path has that is not UTF-8."""
    if not isinstance(value, str):
        raise ValueError("it must be text")
    return value


def _known(schema: int) -> int:
    if schema > SCHEMA:
        raise ValueError(f"it is {schema}, and this rws reads at most {SCHEMA}: update rws")
    return schema


Text = Annotated[Any, AfterValidator(_text)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e100, le=1e100)]
Amount = Annotated[float, Field(ge=0, le=1e100)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Order = Annotated[dict[str, Number | None], _with(DEFAULT_GOD, "kendall_tau")]


@strict
class Mark(TypedDict):
    correct: bool
    partial: Share
    extracted: str
    extractor: str


@strict
class Steering(TypedDict):
    scale: Number
    temperature: Number
    reversals: Share | None
    other_sets: Share
    reversals_by_fill: Annotated[
        list[Annotated[list[Count], Field(min_length=2, max_length=2)]], Field(min_length=10, max_length=10)
    ]


@strict
class SampleCost(TypedDict):
    mdm_passes: Count
    mdm_tokens: Count
    mdm_seconds: Amount
    reward_calls: Count
    reward_hits: Count
    reward_tokens: Count
    reward_seconds: Amount
    seconds: Amount


@strict
class Sample(TypedDict):
    """A line of samples.jsonl."""

    id: str
    question: str
    history: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    prompt: str
    answer: str
    reference: str
    mark: Mark | None
    reward: Number | None
    measures: dict[str, Number | None]
    order: Order
    order_with_eos: Order
    steering: Steering | None
    tokens: Annotated[list[Count], Field(min_length=1)]
    length: Count
    committed: Count
    masked_again: Count
    particles: list[Number]
    cost: SampleCost
    near_ties: NotRequired[Count]
    marks_before: NotRequired[list[Any]]


@strict
class MeanSteering(TypedDict):
    scale: Number
    temperature: Number
    reversals: Share | None
    other_sets: Share


@strict
class TotalCost(SampleCost):
    tokens_per_second: Amount | None
    setup_seconds: NotRequired[Amount]
    run_seconds: NotRequired[Amount]
    peak_memory_bytes: NotRequired[Count]


@strict
class Metrics(TypedDict):
    """metrics.json."""

    examples: Annotated[Count, Field(ge=1)]
    accuracy: Share | None
    accuracy_interval: Interval | None
    pass_at: dict[str, Share] | None
    partial: Share | None
    reward: Number | None
    god: Literal["god_tokens"]
    order: Order
    order_with_eos: Order
    steering: MeanSteering | None
    cost: TotalCost
    measures: dict[str, Number | None]
    near_ties: NotRequired[Share | None]


@strict
class Named(TypedDict):
    name: Name


@strict
class Kind(TypedDict):
    kind: str


@strict
class RecordedSampler(Named):
    schedule: Kind
    review: Kind
    search: Kind


@strict
class Table(TypedDict):
    title: NotRequired[str | None]
    columns: NotRequired[list[str] | None]
    published: NotRequired[dict[str, dict[str, Any]] | None]
    note: NotRequired[str | None]


@strict
class RecordedConfig(TypedDict):
    """A resolved configuration, as far as it is read without being checked as one."""

    seed: int
    benchmark: Named
    model: Named
    reward: Named
    sampler: RecordedSampler
    label: NotRequired[Annotated[Text, AfterValidator(printable)] | None]
    table: NotRequired[Table | None]
    judge: NotRequired[Named]
    runtime: NotRequired[dict[str, Any]]


@strict
class BenchmarkSource(TypedDict):
    version: int
    examples: Count


@strict
class PartSource(TypedDict):
    role: str
    name: Text
    source: Text
    sha256: str


@strict
class Sources(TypedDict):
    benchmark: BenchmarkSource
    parts: NotRequired[dict[str, PartSource]]


@strict
class Marking(TypedDict):
    marker: int


@strict
class Git(TypedDict):
    commit: str
    dirty: bool


@strict
class Tracked(TypedDict):
    name: str
    id: str | None


@strict
class Spending(TypedDict):
    setup_seconds: Amount
    run_seconds: Amount
    peak_memory_bytes: Count


@strict
class Manifest(TypedDict):
    """manifest.json."""

    schema: Annotated[int, AfterValidator(_known)]
    status: Literal["running", "finished", "failed", "interrupted"]
    config: RecordedConfig
    config_hash: str
    overrides: list[Text]
    command: Text
    started: str
    finished: str | None
    resumed: list[str]
    error: Text | None
    failed: dict[str, Text]
    versions: dict[str, str]
    git: Git | None
    machine: dict[str, Any]
    sources: Sources
    marked: NotRequired[list[Marking]]
    measured: NotRequired[list[dict[str, Any]]]
    tracker: NotRequired[Tracked]
    spent: NotRequired[Spending]


@strict
class Failure(TypedDict):
    id: str
    error: Text


@strict
class Against(TypedDict):
    config_hash: str


@strict
class Judging(TypedDict):
    """judge.json."""

    judge: Named
    against: Against


@strict
class Verdict(TypedDict):
    """A line of verdicts.jsonl."""

    id: str
    order: Literal[0, 1]
    first: Share | None
    answers: str


FORMS: dict[str, Any] = {
    "manifest.json": Manifest,
    "metrics.json": Metrics,
    "samples.jsonl": Sample,
    "failures.jsonl": Failure,
    "judge.json": Judging,
    "verdicts.jsonl": Verdict,
}
"""By a file's name, what it holds: a line of it where it has lines. Other files may hold any JSON."""


@lru_cache
def reader(name: str) -> Callable[[bytes], Any]:
    """A function from the JSON of a file of this name, or of a line of it, to its value. It raises ValueError."""
    form = FORMS.get(name, Any)
    adapter = TypeAdapter(form)

    def read(text: bytes) -> Any:
        value = parsed(text)
        try:
            value = adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(_first(error)) from error
        for field, inner in value.items() if isinstance(value, dict) else ():
            if field != "tokens":  # the one long list, of whole numbers
                _plain(field, inner)
        return value

    return read


def parsed(text: bytes) -> Any:
    """The value of a JSON text, in which there is no NaN. Raises ValueError."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        if b"\\ud" not in text:
            raise
    try:
        return json.loads(text, parse_constant=_refuse)  # which takes lone surrogates
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _first(error: ValidationError) -> str:
    """What is wrong first, and where: "order.god_tokens: Input should be a valid number"."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    what = found["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, found["loc"]))
    return f"{where[:200]}: {what}" if where else what
