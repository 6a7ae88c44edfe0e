"""Count the token frequencies that the bundled model brings for `sampler=pc`, and write them beside its weights.

    python scripts/tiny_corpus.py

The corpus is the answers of 2,000 training examples of each bundled benchmark: of the text that the model was trained
on, never of what it is evaluated on.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter

from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.catalog import ASSETS
from rws_cli.config.composing import compose
from rws_cli.files import write_json
from rws_cli.runs.corpus import FILE, frequencies

EXAMPLES = 2000


def main() -> None:
    tokenizer = compose().model.prepare().tokenizer
    counts: Counter[int] = Counter()
    digest = hashlib.sha256()
    for name, make in (("sudoku", Sudoku().make), ("arithmetic", Arithmetic().make)):
        for n in range(EXAMPLES):
            _, answer = make(random.Random(f"corpus {name} {n}"), "train")
            digest.update(answer.encode() + b"\0")
            counts.update(tokenizer(answer, add_special_tokens=False).input_ids)
    source = {
        "what": f"answers of {EXAMPLES} training examples each of sudoku and arithmetic, by scripts/tiny_corpus.py",
        "documents": 2 * EXAMPLES,
        "sha256": digest.hexdigest(),
    }
    write_json(ASSETS / "tiny-mdm" / FILE, frequencies(counts, tokenizer, source))


if __name__ == "__main__":
    main()
