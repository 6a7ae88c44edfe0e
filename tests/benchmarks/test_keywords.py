"""What one sentence is, and what is only a list of words."""

from __future__ import annotations

import json

import pytest
from support import SHARED, mark_of

from rws_cli.benchmarks import keywords
from rws_cli.benchmarks.fields import read_fields

KEYWORDS = keywords.Keywords()

ROW = {"words": ["dog", "park", "ball", "throw"]}
SENTENCE = "I throw the ball for my dog at the park"


@pytest.mark.parametrize(
    "answer",
    [
        SENTENCE,
        f"{SENTENCE}.",
        f"{SENTENCE}! 🐶",
        f"Sure! {SENTENCE}.",
        f"Sure!\n\n{SENTENCE}.",
        f"Of course! Here is a sentence: {SENTENCE}.",
        f"Here is a sentence with dog, park, ball, and throw:\n\n{SENTENCE}.",
        f'"{SENTENCE}."',
        f"**{SENTENCE}.**",
        "Dr. Smith and Mrs. Jones throw the ball to the dog in the park.",
        "T. S. Eliot would throw a ball for a dog of the U.S. Army in St. James's park.",
        "At 5 a.m. the dog sees me throw the ball in the park.",
        f"At 5 a.m. {SENTENCE}.",
        "We play games, e.g. throw a ball, with the dog in the park until 5 p.m.",
        '"Throw the ball!" he said to the dog in the park.',
        "The dog... ran 3.5 miles to the park to throw a ball.",
        "The dog\nran to the park to throw a ball.",
        "The dog ran to the park; I throw the ball.",
    ],
)
def test_one_sentence_is_right(answer: str) -> None:
    assert mark_of(KEYWORDS, ROW, answer).correct, keywords.sentences(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "The dog is in the park. I throw the ball.",
        "the dog is in the park. i throw the ball.",
        "The dog is in the park.I throw the ball.",
        "The dog is in the park! I throw the ball.",
        "The dog is in the park… I throw the ball.",
        "The dog is in the park。I throw the ball。",
        "The dog is in the park\nI throw the ball",
        "The dog is in the park.\nthen I throw the ball.",
        "- The dog is in the park\n- I throw the ball",
        '"The dog is in the park." I throw the ball.',
        "**The dog is in the park.** I throw the ball.",
        "The dog is in the park (they say.) I throw the ball.",
        "I throw the ball in the park at 5 a.m. The dog sleeps.",
        f"Query! {SENTENCE}.",
        f"{SENTENCE}. {SENTENCE}.",
    ],
)
def test_two_sentences_are_not(answer: str) -> None:
    grade = mark_of(KEYWORDS, ROW, answer)
    assert (grade.correct, grade.partial) == (False, 0.75)


@pytest.mark.parametrize(
    "answer",
    [
        "dog park ball throw",
        "dog, park, ball, and throw.",
        "a dog, a park, a ball or the throw etc.",
        "Words: dog, park, ball, throw.",
        "The words are: dog, park, ball, and throw.",
        "Sure! Dog, park, ball, throw.",
        "dog; park; ball; throw",
        "dog/park/ball/throw",
        "- dog\n- park\n- ball\n- throw",
        "1. dog\n2. park\n3. ball\n4. throw",
        "dog\npark\nball\nthrow",
    ],
)
def test_a_list_of_the_words_is_no_sentence(answer: str) -> None:
    grade = mark_of(KEYWORDS, ROW, answer)
    assert (grade.correct, grade.partial) == (False, 0.75)


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_published_words(level: str) -> None:
    file = SHARED / "data" / f"words_to_sentence_{level}.jsonl"
    if not file.exists():
        pytest.skip(f"{file.name} is not at hand")
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        read = read_fields(row, KEYWORDS.needed, {})
        listed = ", ".join(KEYWORDS.keywords(read))
        assert not mark_of(KEYWORDS, row, f"{listed}.").correct
        assert mark_of(KEYWORDS, row, f"Dr. Smith wrote of {listed} in one letter.").correct
        assert not mark_of(KEYWORDS, row, f"He wrote of {listed}. She read it.").correct
        assert not KEYWORDS.reference(read) or mark_of(KEYWORDS, row, KEYWORDS.reference(read)).correct


def test_data_without_a_sentence_have_no_reference() -> None:
    for row, reference in (({"answer": {"words": ["dog"], "example": "A dog ran."}}, "A dog ran."), (ROW, "")):
        assert KEYWORDS.reference(read_fields(row, KEYWORDS.needed, {})) == reference
