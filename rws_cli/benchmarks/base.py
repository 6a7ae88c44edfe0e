"""The base classes of benchmarks: examples, and a rule that grades completions."""

import hashlib
import random
from abc import abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from rws_cli.errors import RunError
from rws_cli.models.canvas import Piece
from rws_cli.models.chat import messages
from rws_cli.part import Part, setting

Row = dict[str, Any]
"""A row of a data set: its fields by name."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Example:
    """A question to the model.

    id: stable name, unique in its benchmark; random numbers and resuming depend on it.
    prompt: the user's turn, before the chat template.
    reference: a correct answer, in the form that the model should write it; "" if there is none.
    row: the row of the data set; empty for generated examples.
    keywords: words that a good completion contains.
    question: the id shared by examples that repeat one question; "" if it is not repeated.
    follows: the id of the example for the previous turn, whose completion this one sees; None for a first turn.
    history: the turns before this one, (user's, assistant's): of the benchmark, or filled in once `follows` has a completion.
    system: the system message of the conversation; "" if there is none. prefix: the beginning of the assistant's turn, which
    the completion continues. raw: whether the model reads the prompt as it is, without a chat template.
    length: the most tokens of its completion, if fewer than sampler.gen_length.
    place: the location of its row in the data set, for messages.
    choices: continuations of the prompt, of which the likeliest is chosen instead of decoding a completion; empty: decode.
    contexts: the prompt of each choice, if they differ; it takes the place of `prompt`.
    canvas: the completion before decoding, in pieces: texts that stay as they are, and numbers of masks, which are decoded
    (None: as many as the reference has tokens); empty if nothing but masks.
    """

    id: str
    prompt: str
    reference: str
    row: Row = field(default_factory=dict, compare=False)
    keywords: tuple[str, ...] = ()
    question: str = ""
    follows: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""
    prefix: str = ""
    raw: bool = False
    length: int | None = None
    place: str = field(default="", compare=False)
    canvas: tuple[Piece, ...] = ()
    choices: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()

    @property
    def context(self) -> dict[str, Any]:
        """What the model reads besides prompt and history: arguments of PreparedModel.encode."""
        return {"system": self.system, "prefix": self.prefix, "raw": self.raw}

    def messages(self, completion: str | None = None) -> list[dict[str, str]]:
        """The conversation so far as chat messages, ending with the prompt or with a completion of it."""
        return messages(self.prompt, self.history, None if completion is None else self.prefix + completion)


@dataclass(frozen=True)
class Grade:
    """The grade of a completion.

    correct: whether it is correct.
    partial: partial credit, the share of it that is correct, in [0, 1]; 1 exactly if every part is.
    extracted: the answer extracted from it and compared; "" if there was none.
    extractor: the rule that extracted it.
    """

    correct: bool
    partial: float
    extracted: str
    extractor: str


@dataclass
class Benchmark(Part):
    """Examples and a grader.

    version: of examples and grades, for the manifest; increase it when either changes. open_ended: whether completions
    are not graded, because no answer is right or wrong. runs_programs: whether grading runs programs that a model wrote.
    chooses: whether examples may have choices.
    A setting with asks=False does not change the first prompt of a conversation.
    """

    role: ClassVar[str] = "benchmark"
    version = 1
    open_ended = False
    runs_programs = False
    chooses = False

    name: str = setting("the name in tables and run folders", "???", asks=False)
    completions: int = setting("completions per question", 1, min=1, max=10_000, asks=False)
    gen_length: int = setting("completion length in tokens that its answers need", "???", min=1, asks=False)

    def examples(self) -> list[Example]:
        """All examples, in order. Raises UsageError if the data cannot be read or completions cannot be graded."""
        raise NotImplementedError

    def repeated(self) -> list[Example]:
        """Each example once per completion: "/0", "/1", … is added to its id, and `question` is the id without it."""
        examples = self.examples()
        if self.completions == 1:
            return examples
        return [
            replace(e, id=f"{e.id}/{n}", question=e.id, follows=e.follows and f"{e.follows}/{n}")
            for e in examples
            for n in range(self.completions)
        ]

    def grade(self, example: Example, completion: str) -> Grade | None:
        """The grade of a completion; None if the benchmark is open-ended."""
        return None

    def grade_sample(self, example: Example, sample: dict[str, Any]) -> Grade | None:
        """The grade of a line of samples.jsonl: that of its completion, unless a part looks at more."""
        return self.grade(example, sample["completion"])

    def measure(
        self, examples: list[Example], samples: list[dict[str, Any]]
    ) -> tuple[list[dict[str, float]], dict[str, float | None]]:
        """Measures besides the grade: of each sample, and of all of them together, by name."""
        return [{} for _ in samples], {}

    def doubtful_references(self, examples: list[Example]) -> str | None:
        """A warning about references that the grader rejects; None if there are none."""
        return None


@dataclass
class Generated(Benchmark):
    """A benchmark with generated examples. Example i depends only on (split, seed, i), so every limit has the same first
    examples. A part implements `make` and `grade`."""

    limit: int = setting("number of examples", 100, min=1, max=1_000_000, asks=False)
    turns: int = setting(
        "turns per conversation: this many successive examples make one", 1, min=1, max=1_000, asks=False
    )
    seed: int = setting("seed of the generator; decoding has its own", 0)

    def make(self, rng: random.Random, split: Split) -> tuple[str, str]:
        """A prompt and its correct answer, determined by these random numbers alone."""
        raise NotImplementedError

    def canvas(self, prompt: str) -> tuple[str, tuple[Piece, ...]]:
        """The prompt as the model gets it, and what stands on the canvas (Example.canvas)."""
        return prompt, ()

    def keywords(self, prompt: str) -> tuple[str, ...]:
        """Words that a good completion of a prompt contains."""
        return ()

    def examples(self, split: Split = "test") -> list[Example]:
        made = _made.setdefault((repr(replace(self, limit=1)), split), [])
        made += [self._example(index, split) for index in range(len(made), self.limit)]
        return made[: self.limit]

    @abstractmethod
    def grade(self, example: Example, completion: str) -> Grade: ...

    def _example(self, index: int, split: Split) -> Example:
        kind = type(self).__module__.rpartition(".")[2]
        prompt, answer = self.make(random.Random(f"{kind} {split} {self.seed} {index}"), split)
        before = f"{kind}-{split}-{self.seed}-{index - 1}" if index % self.turns else None
        keywords, (prompt, canvas) = self.keywords(prompt), self.canvas(prompt)
        name = f"{kind}-{split}-{self.seed}-{index}"
        return Example(name, prompt, answer, keywords=keywords, follows=before, canvas=canvas)


_made: dict[tuple[str, Split], list[Example]] = {}
"""Generated examples by settings: a cache for the jobs of a sweep."""


def grade_completion(benchmark: Benchmark, example: Example, sample: dict[str, Any]) -> dict[str, Any] | None:
    """A benchmark's grade of a sample in the form of records. Raises RunError if the grader fails."""
    try:
        grade = benchmark.grade_sample(example, sample)
    except Exception as error:  # graders may fail in any way on what a model writes
        raise RunError(f"The completion of {example.id} cannot be graded: {type(error).__name__}: {error}") from error
    return asdict(grade) if grade else None


def held_out(key: str, one_in: int = 8) -> bool:
    """Whether `key` belongs to the test split: one key in `one_in`, decided by its SHA-256 hash."""
    return hashlib.sha256(key.encode()).digest()[0] % one_in == 0
