"""The forms (pydantic types) of a run's files. A folder may come from anyone, so a file that does not match is refused.

Forms list the fields that rws reads. Other fields are allowed and left unchanged.
"""

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from rws_cli.analysis.order import DEFAULT_GOD
from rws_cli.config.renamed import SCHEMA, rename_record, rename_settings
from rws_cli.errors import printable

DEEPEST = 30
"""The maximum nesting of values that a form does not specify."""


def _plain(field: str, value: Any, levels: int = DEEPEST) -> None:
    """Raises ValueError if a value is nested too deeply or has numbers that are not finite, which JSON cannot represent."""
    if not levels:
        raise ValueError(f"{field}: it is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{field}: it contains a number that is not finite")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _plain(field, inner, levels - 1)


def _requires(*names: str) -> AfterValidator:
    """A validator for dictionaries that must have these keys."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{missing[0]} is missing")
        return values

    return AfterValidator(check)


def _text(value: Any) -> str:
    """Unlike pydantic's str, allows lone surrogates, which occur in paths that are not UTF-8."""
    if not isinstance(value, str):
        raise ValueError("it must be text")
    return value


def _supported(schema: int) -> int:
    if schema > SCHEMA:
        raise ValueError(f"it is {schema}, but this rws reads at most {SCHEMA}: update rws")
    return schema


def _form(**fields: Any) -> Any:
    """A JSON object with at least these fields."""
    form: Any = TypedDict("Form", fields)  # type: ignore[misc]
    return with_config(ConfigDict(strict=True, extra="allow"))(form)


def _list(each: Any, least: int = 0, most: int | None = None) -> Any:
    return Annotated[list[each], Field(min_length=least, max_length=most)]


Text = Annotated[Any, AfterValidator(_text)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e100, le=1e100)]
Amount = Annotated[float, Field(ge=0, le=1e100)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
Order = Annotated[dict[str, Number | None], _requires(DEFAULT_GOD, "kendall_tau")]


Grade = _form(correct=bool, partial=Share, extracted=str, extractor=str)
Choice = _form(
    text=str,
    log_likelihood=Number,
    standard_error=Amount,
    tokens=Count,
    divisor=Count,
    difference_error=Amount,
    is_greedy=bool | None,
)
GUIDANCE: dict[str, Any] = {
    "scale": Number,
    "temperature": Number,
    "reversals": Share | None,
    "changed_selections": Share,
}
COST = {
    **dict.fromkeys(("mdm_passes", "mdm_tokens", "reward_calls", "reward_cache_hits", "reward_tokens"), Count),
    **dict.fromkeys(("mdm_seconds", "reward_seconds", "seconds"), Amount),
}
SPENT = {"setup_seconds": Amount, "run_seconds": Amount, "peak_memory_bytes": Count}
MEASURED = {"order": Order, "order_with_eos": Order, "measures": dict[str, Number | None], "reward": Number | None}

Sample = _form(
    **MEASURED,
    id=str,
    question=str,
    history=_list(_list(str, 2, 2)),
    prompt=str,
    completion=str,
    reference=str,
    grade=Grade | None,
    guidance=_form(**GUIDANCE, reversals_by_progress=_list(_list(Count, 2, 2), 10, 10)) | None,
    tokens=_list(Count, 1),
    length=Count,
    committed=Count,
    remasked=Count,
    particles=list[Number],
    cost=_form(**COST),
    near_ties=NotRequired[Count],
    edited=NotRequired[Count],
    choices=NotRequired[list[Choice]],  # type: ignore[valid-type]
    grades_before=NotRequired[list[Any]],
)
Metrics = _form(
    **MEASURED,
    examples=Annotated[Count, Field(ge=1)],
    accuracy=Share | None,
    accuracy_interval=_list(Number, 2, 2) | None,
    pass_at=dict[str, Share] | None,
    partial=Share | None,
    god=Literal["god_tokens"],
    guidance=_form(**GUIDANCE) | None,
    cost=_form(**COST, tokens_per_second=Amount | None, **{name: NotRequired[form] for name, form in SPENT.items()}),
    near_ties=NotRequired[Share | None],
)

Named, Kind = _form(name=Name), _form(kind=str)
Table = _form(
    title=NotRequired[str | None],
    columns=NotRequired[list[str] | None],
    published=NotRequired[dict[str, dict[str, Any]] | None],
    note=NotRequired[str | None],
)
Config = _form(
    seed=int,
    benchmark=Named,
    model=Named,
    reward=Named,
    sampler=_form(name=Name, schedule=Kind, remasking=Kind, search=Kind),
    label=NotRequired[Annotated[Text, AfterValidator(printable)] | None],
    table=NotRequired[Table | None],
    judge=NotRequired[Named],
    runtime=NotRequired[dict[str, Any]],
)
"""The parts of a resolved configuration that are read without checking all of it."""
Part = _form(role=str, name=Text, source=Text, sha256=str)
Manifest = _form(
    schema=Annotated[int, AfterValidator(_supported)],
    status=Literal["running", "finished", "failed", "interrupted"],
    config=Config,
    config_hash=str,
    overrides=list[Text],
    command=Text,
    started=str,
    finished=str | None,
    resumed=list[str],
    error=Text | None,
    failed=dict[str, Text],
    versions=dict[str, str],
    git=_form(commit=str, dirty=bool) | None,
    machine=dict[str, Any],
    sources=_form(benchmark=_form(version=int, examples=Count), parts=NotRequired[dict[str, Part]]),  # type: ignore[valid-type]
    graded=NotRequired[_list(_form(grader=int))],
    measured=NotRequired[list[dict[str, Any]]],
    tracker=NotRequired[_form(name=str, id=str | None)],
    spent=NotRequired[_form(**SPENT)],
)

FORMS: dict[str, Any] = {
    "manifest.json": Manifest,
    "metrics.json": Metrics,
    "samples.jsonl": Sample,
    "failures.jsonl": _form(id=str, error=Text),
    "judge.json": _form(judge=Named, against=_form(config_hash=str)),
    "verdicts.jsonl": _form(id=str, order=Literal[0, 1], first=Share | None, completions=str),
}
"""File name → the form of its content, or of each line in JSON Lines files. Other files may contain any JSON."""


@lru_cache
def reader(name: str, schema: int = SCHEMA) -> Callable[[bytes], Any]:
    """A function that parses and checks the JSON of a file of this name, or a line of it; it raises ValueError.

    schema: the run's; a manifest states its own.
    """
    form = FORMS.get(name, Any)
    adapter = TypeAdapter(form)

    def read(text: bytes) -> Any:
        value = _with_new_names(name, parsed(text), schema)
        try:
            value = adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(_first(error)) from error
        for field, inner in value.items() if isinstance(value, dict) else ():
            if field != "tokens":  # the only long list; its form is strict
                _plain(field, inner)
        return value

    return read


def _with_new_names(name: str, value: Any, schema: int) -> Any:
    if name == "manifest.json" and isinstance(value, dict) and isinstance(value.get("schema"), int):
        schema = value["schema"]
        if schema < SCHEMA:
            rename_settings(value.get("config"))
    return rename_record(name, value, schema)


def parsed(text: bytes) -> Any:
    """Parse JSON. Raises ValueError, also for NaN and infinities."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        if b"\\ud" not in text:
            raise
    try:
        return json.loads(text, parse_constant=_refuse)  # accepts lone surrogates
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _first(error: ValidationError) -> str:
    """The first mistake and where it is: "order.god_tokens: Input should be a valid number"."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    what = first["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, first["loc"]))
    return f"{where[:200]}: {what}" if where else what
