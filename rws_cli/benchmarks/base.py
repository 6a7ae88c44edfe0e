"""What a benchmark is: examples to answer, and a rule that grades an answer."""

import hashlib
import random
from abc import abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from rws_cli.errors import RunError
from rws_cli.models.chat import messages
from rws_cli.part import Part, setting

Row = dict[str, Any]
"""A line of a data set, its fields by name."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Example:
    """One question.

    id: stable name, unique in its benchmark; random streams and resume key on it.
    prompt: the user's turn, before the chat template.
    reference: a right answer, as the model would write it; "" where there is none.
    row: what the data set says besides; empty for generated examples.
    keywords: words that a good answer holds.
    question: the id of what several examples are answers to; "" if this is the only one.
    follows: the id of the example that this one goes on from, whose answer it sees; None for a first turn.
    history: the turns before this one, (user's, assistant's); known once `follows` is answered.
    place: where its row is in the data set, for messages.
    """

    id: str
    prompt: str
    reference: str
    row: Row = field(default_factory=dict, compare=False)
    keywords: tuple[str, ...] = ()
    question: str = ""
    follows: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    place: str = field(default="", compare=False)

    def messages(self, answer: str | None = None) -> list[dict[str, str]]:
        """The conversation so far, as chat templates take it, with an answer to the prompt if one is given."""
        return messages(self.prompt, self.history, answer)


@dataclass(frozen=True)
class Grade:
    """How an answer was graded.

    correct: whether the answer passes.
    partial: the share of it that is right, in [0, 1]; 1 exactly where every part is.
    extracted: what was read off the answer and compared ("" if nothing could be read).
    extractor: the rule that read it.
    """

    correct: bool
    partial: float
    extracted: str
    extractor: str


@dataclass
class Benchmark(Part):
    """Examples and a grader.

    version: of examples and grades, for the manifest; raise it where either changes. open_ended: whether no answer is
    right or wrong, so that none is graded. runs_programs: whether grading runs what a model wrote. A setting with
    asks=False leaves the first question of a conversation as it is.
    """

    role: ClassVar[str] = "benchmark"
    version = 1
    open_ended = False
    runs_programs = False

    name: str = setting("what tables and run folders call it", "???", asks=False)
    completions: int = setting("how often each question is answered", 1, min=1, max=10_000, asks=False)
    gen_length: int = setting("tokens that its answers need", "???", min=1, asks=False)

    def examples(self) -> list[Example]:
        """All examples, in order. Raises UsageError if the data cannot be read or the answers not be graded."""
        raise NotImplementedError

    def asked(self) -> list[Example]:
        """Each example as often as it is to be answered: ids get "/0", "/1", …, and `question` is the id before that."""
        examples = self.examples()
        if self.completions == 1:
            return examples
        return [
            replace(e, id=f"{e.id}/{n}", question=e.id, follows=e.follows and f"{e.follows}/{n}")
            for e in examples
            for n in range(self.completions)
        ]

    def grade(self, example: Example, answer: str) -> Grade | None:
        """The grade of an answer; None of an open-ended benchmark."""
        return None

    def doubtful_references(self, examples: list[Example]) -> str | None:
        """A warning about references that the grader does not take for right; None if there are none."""
        return None


@dataclass
class Generated(Benchmark):
    """Examples from a seeded generator: example i depends on (split, seed, i) alone, so any limit sees the same first
    ones. With `turns`, so many successive examples are one conversation. A part adds `make` and `grade`."""

    limit: int = setting("how many examples", 100, min=1, max=1_000_000, asks=False)
    turns: int = setting("successive examples that make one conversation", 1, min=1, max=1_000, asks=False)
    seed: int = setting("of the generator, not of decoding", 0)

    def make(self, rng: random.Random, split: Split) -> tuple[str, str]:
        """A prompt and its right answer, by these random numbers alone."""
        raise NotImplementedError

    def keywords(self, prompt: str) -> tuple[str, ...]:
        """Words that a good answer to a prompt holds."""
        return ()

    def examples(self, split: Split = "test") -> list[Example]:
        made = _made.setdefault((repr(replace(self, limit=1)), split), [])
        made += [self._example(index, split) for index in range(len(made), self.limit)]
        return made[: self.limit]

    @abstractmethod
    def grade(self, example: Example, answer: str) -> Grade: ...

    def _example(self, index: int, split: Split) -> Example:
        kind = type(self).__module__.rpartition(".")[2]
        prompt, answer = self.make(random.Random(f"{kind} {split} {self.seed} {index}"), split)
        before = f"{kind}-{split}-{self.seed}-{index - 1}" if index % self.turns else None
        return Example(
            f"{kind}-{split}-{self.seed}-{index}", prompt, answer, keywords=self.keywords(prompt), follows=before
        )


_made: dict[tuple[str, Split], list[Example]] = {}
"""What was generated, by settings: the jobs of a sweep ask again."""


def grade_completion(benchmark: Benchmark, example: Example, answer: str) -> dict[str, Any] | None:
    """A benchmark's grade as records keep it. Raises RunError if the grader fails."""
    try:
        found = benchmark.grade(example, answer)
    except Exception as error:  # a grader may fail at anything that a model writes
        raise RunError(f"The answer to {example.id} cannot be graded: {type(error).__name__}: {error}") from error
    return asdict(found) if found else None


def held_out(key: str, one_in: int = 8) -> bool:
    """Whether `key` belongs to the test split: one key in `one_in`, by SHA-256, for ever."""
    return hashlib.sha256(key.encode()).digest()[0] % one_in == 0
