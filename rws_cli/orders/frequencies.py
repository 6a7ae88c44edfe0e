"""Token frequencies: the file that `rws corpus` writes and orders read."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rws_cli.errors import UsageError

FILE = "frequencies.json"


def vocabulary(tokenizer: Any) -> str:
    """A hash that identifies a tokenizer's vocabulary."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def read_frequencies(path: Path, tokenizer: Any, size: int, key: str) -> list[float]:
    """Each token's share of a corpus, by id; a token that does not occur has 1/N, N the tokens of the corpus.

    Raises UsageError if the file is missing, broken, or belongs to another tokenizer.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        counts, total = stored["counts"], int(stored["tokens"])
    except FileNotFoundError as error:
        raise UsageError(
            f"{key} needs token frequencies, and {path} does not exist: count a corpus with rws corpus and set {key}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{key}={path} was not written by rws corpus: {error}.") from error
    if stored.get("vocabulary") != vocabulary(tokenizer):
        raise UsageError(f"{key}={path} was counted with another tokenizer: count the corpus again with this model.")
    return [counts.get(str(token), 1) / total for token in range(size)]
