"""Count the tokens of a corpus with a model's tokenizer, for orders that use token frequencies."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rws_cli import __version__
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.files import user_path, write_json
from rws_cli.orders.frequencies import FILE, vocabulary
from rws_cli.runs.folder import claim_version, point_latest
from rws_cli.runs.manifest import now


@dataclass(frozen=True)
class Corpus:
    """The source of text: files (data files have a document per row, others are one document) or a data set on the Hub.
    field: the field of a row that holds the text. limit: number of documents."""

    files: list[str]
    hub: str | None
    subset: str | None
    split: str
    revision: str | None
    field: str
    limit: int | None


def count_corpus(config: Config, corpus: Corpus) -> Path:
    """Count a corpus with the tokenizer of config.model; returns the file written.

    Raises UsageError if the corpus cannot be read, RunError if it is empty.
    """
    tokenizer = config.model.prepare().tokenizer
    digest = hashlib.sha256()
    counts: Counter[int] = Counter()
    documents = 0
    for text in documents_of(corpus):
        documents += 1
        digest.update(text.encode() + b"\0")
        counts.update(tokenizer(text, add_special_tokens=False).input_ids)
    if not counts:
        raise RunError("The corpus has no tokens: give files or a data set with text.")
    source = {
        "documents": documents, "sha256": digest.hexdigest(), **vars(corpus), "model": config.model.path, "rws": __version__,
        "at": now(),
    }  # fmt: skip
    folder = claim_version(Path(config.output) / "corpus" / config.model.name)
    write_json(folder / FILE, frequencies(counts, tokenizer, source))
    point_latest(folder)
    return folder / FILE


def frequencies(counts: Counter[int], tokenizer: Any, source: dict[str, Any]) -> dict[str, Any]:
    """The content of a frequency file: counts by token id, their sum, the vocabulary, and the source."""
    ordered = {str(token): counts[token] for token in sorted(counts)}
    return {"tokens": counts.total(), "vocabulary": vocabulary(tokenizer), "source": source, "counts": ordered}


def documents_of(corpus: Corpus) -> Iterable[str]:
    """The documents, in order. Raises UsageError naming what cannot be read."""
    return islice(_all_documents(corpus), corpus.limit)


def _all_documents(corpus: Corpus) -> Iterable[str]:
    from rws_cli.benchmarks.rows import FORMATS, file_rows, hub_rows, undecodable

    for name in corpus.files:
        path = user_path(name)
        if not path.is_file():
            raise UsageError(f"{name} does not exist: give text files, or data files with a field {corpus.field}.")
        if path.suffix in FORMATS:
            for place, row in file_rows(path, name):
                yield _field(row, corpus.field, f"{place} of {name}")
        else:
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                line, column = undecodable(path)
                raise UsageError(f"{name} is not valid UTF-8 at line {line}, column {column}.") from error
    if corpus.hub:
        hub: dict[str, Any] = {"path": corpus.hub, "name": corpus.subset}
        hub |= {"split": corpus.split, "revision": corpus.revision, "streaming": corpus.limit is not None}
        for place, row in hub_rows(hub, f"--hub {corpus.hub}"):
            yield _field(row, corpus.field, f"{place} of {corpus.hub}")


def _field(row: dict[str, Any], field: str, name: str) -> str:
    if not isinstance(row.get(field), str):
        raise UsageError(f"{name} has no text in the field {field} (its fields: {', '.join(row)}): set --field.")
    return row[field]
