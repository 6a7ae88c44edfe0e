"""The log likelihood of texts, without a run folder."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rws_cli.benchmarks import fields
from rws_cli.benchmarks.rows import FORMATS, file_rows, local_file
from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError
from rws_cli.likelihood.memory import automatic_rows, score
from rws_cli.likelihood.score import LogLikelihood, Pair
from rws_cli.models.base import PreparedModel
from rws_cli.runs.prepared import load, prepare


@dataclass(frozen=True)
class Item:
    """A text to score after a prompt; None: from its beginning. place: in its file, for messages."""

    text: str
    prompt: str | None = None
    place: str = "The text"


def configured(overrides: Sequence[str]) -> Config:
    """The configuration of a model that scores texts. Raises UsageError, also if the overrides name a benchmark."""
    if any(override.lstrip("+~").startswith("benchmark=") for override in overrides):
        raise UsageError("rws likelihood scores texts: leave out benchmark=…, or use rws run.")
    return compose("benchmark=prompt", "benchmark.text='-'", "sampler=confidence", "reward=none", *overrides)


def read_items(path: str) -> list[Item]:
    """The texts of a data file: fields text, and prompt if there is one. Raises UsageError."""
    named = f"The file {path}"
    items = []
    for place, row in file_rows(local_file(path, "FILE"), named):
        try:
            values = fields.read_fields(row, {"text|completion": fields.text}, {"prompt": fields.text})
        except ValueError as error:
            raise UsageError(f"{named}, {place} {error}.") from error
        items.append(Item(values["text"], values.get("prompt"), f"{named}, {place},"))
    if not items:
        raise UsageError(f"{named} has no rows.")
    return items


def is_file(text: str) -> bool:
    """Whether an argument names a data file rather than being a text."""
    return text.endswith(tuple(FORMATS)) and not any(map(str.isspace, text))


def pair_of(model: PreparedModel, item: Item) -> Pair:
    """A text's token ids, after those of its prompt. Raises UsageError if it is empty or exceeds the model's context."""
    if item.prompt is None:
        context, ids = model.tokenizer("").input_ids, model.tokenizer(item.text, add_special_tokens=False).input_ids
    else:
        context, ids = model.encode_choice(item.prompt, item.text)
    if not ids:
        raise UsageError(f"{item.place} has no tokens.")
    limit = model.context_length
    if 0 < limit < len(context) + len(ids):
        raise UsageError(
            f"{item.place} has {len(context) + len(ids)} tokens with its prompt; that exceeds the model's context of {limit}."
        )
    name = hashlib.sha256(f"{item.prompt}\0{item.text}".encode(errors="surrogatepass")).hexdigest()
    return Pair(context, ids, name, False)


def score_items(
    config: Config, items: Sequence[Item], notify: Callable[[str], None]
) -> tuple[list[LogLikelihood], list[int]]:
    """The log likelihood of each text, and its length in tokens. Raises UsageError as a run would, and RunError if scoring
    fails."""
    prepared = prepare(config)
    pairs = [pair_of(prepared.model, item) for item in items]
    denoiser = load(config, prepared).denoiser
    rows = 1 if config.runtime.deterministic else config.runtime.batch_size
    rows = rows or automatic_rows(denoiser.vocabulary, pairs)
    scores = score(denoiser, pairs, config.likelihood, config.seed, rows, notify)
    return scores, [len(pair.continuation) for pair in pairs]
