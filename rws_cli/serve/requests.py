"""Requests: the prompts in their bodies, stop strings, and the settings in which they differ from the command line."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.prompt import Prompt
from rws_cli.errors import printable
from rws_cli.models.base import PreparedModel

SETTINGS = {
    "max_tokens": "sampler.gen_length",
    "max_completion_tokens": "sampler.gen_length",
    "temperature": "sampler.temperature",
    "top_p": "sampler.top_p",
    "n": "benchmark.completions",
    "seed": "seed",
}
"""Fields of OpenAI's requests → settings."""
GROUPS = ("sampler", "guidance", "search")
"""Groups from which a request may choose."""
IGNORED = ("user", "metadata")
"""Fields that change no completion."""
MOST = 1 << 16
"""The largest number that a sampler's setting may have, such as a completion's length."""
PLAIN = re.compile(r"[A-Za-z0-9_.+-]*")
"""Text values that a setting may have: names and numbers, but no paths and no expressions."""


class RequestError(Exception):
    """A request that is answered with an error. status: of HTTP; param: the field at fault, if one is."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(printable(message))
        self.status, self.param = status, param


@dataclass(frozen=True)
class Request:
    """prompts: examples and the token ids of their prompts. overrides: as for `rws run`. stop: strings that end a
    completion, and are not part of it."""

    prompts: list[tuple[Example, list[int]]]
    overrides: tuple[str, ...]
    stop: list[str]


def read_request(content: bytes, model: PreparedModel, name: str, chat: bool) -> Request:
    """The request in a body. name: of the model that is served. Raises RequestError."""
    try:
        body = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(400, "The body is not a JSON object.")
    wanted = body.pop("model", None)
    if not isinstance(wanted, str):
        raise RequestError(400, f"model is missing: it must be {name}.", "model")
    if wanted != name:
        raise RequestError(404, f"model={wanted} is not served here: the model of this endpoint is {name}.", "model")
    if body.pop("stream", None):
        raise RequestError(400, "stream=true is not supported: a completion comes as a whole.", "stream")
    field = "messages" if chat else "prompt"
    if field not in body:
        raise RequestError(400, f"{field} is missing.", field)
    prompts = [_conversation(body.pop(field), model)] if chat else _prompts(body.pop(field), model)
    stop = body.pop("stop", None) or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise RequestError(400, "stop must be a string or a list of strings, none of them empty.", "stop")
    return Request(prompts, tuple(_overrides(body)), stop)


def _conversation(turns: Any, model: PreparedModel) -> tuple[Example, list[int]]:
    """The example in chat messages. A single message has the id, and so the random numbers, that `rws generate` gives it."""
    if not isinstance(turns, list) or not turns:
        raise RequestError(400, "messages must be a list of at least one message.", "messages")
    texts = []
    for number, turn in enumerate(turns):
        role, expected = turn.get("role") if isinstance(turn, dict) else None, ("user", "assistant")[number % 2]
        if role != expected:
            raise RequestError(
                400,
                f"messages[{number}].role={role} is not supported: turns must alternate, user, assistant, …, user.",
                "messages",
            )
        texts.append(_content(turn.get("content"), number))
    if len(texts) % 2 == 0:
        raise RequestError(400, "The last of the messages must be the user's.", "messages")
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    name = Prompt(text=texts[0], canvas=None, kind="prompt", name="prompt", gen_length=1).examples()[0].id
    if history:
        name = f"chat-{_digest(texts)}"
    return Example(name, texts[-1], "", history=history), model.encode(texts[-1], history)


def _content(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(_is_text(piece) for piece in content):
        return "".join(piece["text"] for piece in content)
    raise RequestError(400, f"messages[{number}].content must be text.", "messages")


def _is_text(piece: Any) -> bool:
    return isinstance(piece, dict) and piece.get("type") == "text" and isinstance(piece.get("text"), str)


def _prompts(prompt: Any, model: PreparedModel) -> list[tuple[Example, list[int]]]:
    """Texts that are completed as they are, without a chat template: one or several, or their token ids."""
    several = prompt if isinstance(prompt, list) and not _are_tokens(prompt) else [prompt]
    read = []
    for each in several:
        if isinstance(each, str):
            ids = model.tokenizer(each).input_ids
        elif _are_tokens(each) and all(0 <= token < model.vocabulary for token in each):
            ids, each = each, model.tokenizer.decode(each)
        else:
            raise RequestError(
                400,
                f"prompt must be text, a list of texts, or token ids (0 to {model.vocabulary - 1}), one list or several.",
                "prompt",
            )
        read.append((Example(f"text-{_digest(ids)}", each, ""), ids))
    if not read or not all(ids for _, ids in read):
        raise RequestError(400, "prompt is empty.", "prompt")
    return read


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _overrides(body: dict[str, Any]) -> Iterator[str]:
    """The settings in the remaining fields: those of OpenAI, sampler=, guidance= and search=, and sampler.… in full or
    nested. Raises RequestError for other fields, unless they ask for nothing."""
    for field, value in body.items():
        if field in SETTINGS:
            if value is not None:
                yield from _settings(SETTINGS[field], value, field)
        elif field in GROUPS and not isinstance(value, dict):
            if not isinstance(value, str) or not PLAIN.fullmatch(value):
                raise RequestError(400, f"{field}={value} is not a name.", field)
            yield f"{field}={value}"
        elif re.fullmatch(r"sampler(\.[A-Za-z_]\w*)*", field):
            yield from _settings(field, value, field)
        elif field not in IGNORED and value not in (None, False, 0, "", [], {}):
            raise RequestError(
                400,
                f"{field} is not supported: a request can set {', '.join(SETTINGS)}, stop, {', '.join(GROUPS)} and "
                "sampler.…; everything else is set by the command line of rws serve.",
                field,
            )


def _settings(key: str, value: Any, field: str) -> Iterator[str]:
    """Overrides for a value, or for the values nested in it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise RequestError(400, f"{key}.{name} is not a setting.", field)
            yield from _settings(f"{key}.{name}", inner, field)
    elif isinstance(value, str) and not PLAIN.fullmatch(value):
        raise RequestError(400, f"{key}={value} is neither a number nor a name: a request cannot set it.", field)
    elif isinstance(value, list):
        raise RequestError(400, f"{key} is a list: a request can set only numbers and names.", field)
    elif key != "seed" and not -MOST <= _number(value) <= MOST:
        raise RequestError(400, f"{key}={value} is out of range: numbers in requests are at most {MOST}.", field)
    else:
        yield f"{key}={json.dumps(value)}"


def _number(value: Any) -> float:
    """A value as a number, also if it is written as text; 0 if it is none."""
    try:
        return float(value or 0)
    except ValueError:
        return 0.0
    except OverflowError:
        return math.inf
