"""ParallelBench: graders against all answers by hand, generated questions, and the published files' format."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.list_tasks import TASKS, generated, read_list, read_sudoku, written_list
from rws_cli.benchmarks.parallel_bench import ParallelBench
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError


@cache
def preset() -> ParallelBench:
    return compose("benchmark=parallel_bench_line").benchmark


def benchmark(task: str, **settings: Any) -> ParallelBench:
    return replace(preset(), task=task, **settings)


def grade(task: str, completion: str, answer: Any, strict: bool = False) -> bool:
    row = {"input": {}, "answer": answer}
    return benchmark(task, strict=strict).grade(Example("e", "", "", row), completion).correct


LINE = ["a", "b", "c"]
LISTS = [list(items) for size in range(5) for items in product("abcd", repeat=size)]


def right_lists(task: str) -> list[list[str]]:
    """All lists that solve a task about LINE and the word d, by trying each place."""
    if task == "shuffle":
        return [list(items) for items in permutations(LINE) if list(items) != LINE]
    right = []
    for place in range(4):
        items = list(LINE)
        if task == "insert_random":
            items.insert(place, "d")
        elif place < 3 and task == "remove_random":
            del items[place]
        elif place < 3:
            items[place] = "d"
        right.append(items)
    return [items for items in right if items != LINE]


@pytest.mark.parametrize("task", ["shuffle", "insert_random", "remove_random", "replace_random"])
def test_exactly_the_right_lists_are_correct(task: str) -> None:
    right = right_lists(task)
    one = benchmark(f"waiting_line/{task}")
    example = Example("e", "", "", {"input": {}, "answer": {"input": LINE, "word": "d"}})
    correct = [items for items in LISTS if one.grade(example, written_list(items)).correct]
    assert sorted(correct) == sorted(right)


@pytest.mark.parametrize(
    "text",
    [
        '["A B", "C D"]',
        '"A B", "C D"',
        "A B, C D",
        'Sure: ["x"]\n["A B", "C D"] is it [',
        '["A B","C D"]',
        "[A B, C D,]",
    ],
)
def test_a_list_is_read_leniently(text: str) -> None:  # fmt: skip
    if text.endswith("["):
        assert read_list(text) == []  # the published rule: what follows the last bracket
    else:
        assert read_list(text) == ["A B", "C D"]
    assert read_list(text, strict=True) == (["A B", "C D"] if text == '["A B", "C D"]' else None)


VERDICTS = [
    # task, completion, answer, score, score_strict: as the published graders say
    ("waiting_line/copy", '["A B", "C D"]', '["A B", "C D"]', True, True),
    ("waiting_line/copy", 'The list is ["A B", "C D"].', '["A B", "C D"]', True, True),
    ("waiting_line/copy", '["A B",\n"C D"]', '["A B", "C D"]', False, False),
    ("waiting_line/copy", '["A B", "C D"', '["A B", "C D"]', True, False),
    ("waiting_line/copy", '["C D", "A B"]', '["A B", "C D"]', False, False),
    ("waiting_line/replace_random", '["d", "d", "c"]', {"input": LINE, "word": "d", "example": ""}, False, False),
    ("waiting_line/remove_random", '["a", "a"]', {"input": LINE, "example": ""}, False, False),
    ("puzzle/sudoku_n4_12", "1342\n2431\n4123\n3214", "1342\n2431\n4123\n3214", True, True),
    ("puzzle/sudoku_n4_12", "Answer:\n1 3 4 2\n2,4,3,1\n4123\n3214", "1342\n2431\n4123\n3214", True, False),
    ("puzzle/sudoku_n4_12", "1342\n2431\n4123\n3214\n1111", "1342\n2431\n4123\n3214", False, False),
    ("puzzle/sudoku_n4_12", "1342\n2431\n4123", "1342\n2431\n4123\n3214", False, False),
    ("puzzle/latin_square_n4", "Here:\nA,B,C,D\nB,A,D,C\nC,D,A,B\nD,C,B,A", {"symbols": list("ABCD")}, True, True),
    ("puzzle/latin_square_n4", "A, B, C, D\nB,A,D,C\nC,D,A,B\nD,C,B,A\n", {"symbols": list("ABCD")}, True, True),
    ("puzzle/latin_square_n4", "A,B,C,D\nA,B,C,D\nB,A,D,C\nC,D,A,B\nD,C,B,A", {"symbols": list("ABCD")}, False, False),
    ("puzzle/latin_square_n4", "A,B,C,D,A\nB,A,D,C\nC,D,A,B\nD,C,B,A", {"symbols": list("ABCD")}, True, True),
    ("puzzle/latin_square_n4", "A,B,C\nB,C,A\nC,A,B", {"symbols": list("ABCD")}, False, False),
    ("puzzle/latin_square_n4", "", {"symbols": list("ABCD")}, False, False),
]


@pytest.mark.parametrize(("task", "completion", "answer", "score", "strict"), VERDICTS)
def test_verdicts_of_the_published_graders(task: str, completion: str, answer: Any, score: bool, strict: bool) -> None:
    assert (grade(task, completion, answer), grade(task, completion, answer, strict=True)) == (score, strict)


@pytest.mark.parametrize("task", TASKS)
def test_generated_questions_have_right_answers(task: str) -> None:
    """Also strictly; another task's list or grid is wrong where it should be."""
    made = benchmark(task, limit=12, seed=3)
    examples = made.examples()
    assert made.doubtful_references(examples) is None
    assert replace(made, strict=True).doubtful_references(examples) is None
    assert examples == benchmark(task, limit=20, seed=3).examples()[:12]
    assert examples != benchmark(task, limit=12, seed=4).examples()
    assert len({example.prompt for example in examples}) == 12
    for example in examples:
        ((question, answer),) = example.history
        assert made.grade(replace(example, row=replace_row(example, 0)), answer).correct
        assert "{" not in question + example.prompt
        wrong = example.row["input"].get("context", example.row["input"].get("sudoku", "1,2,3,4"))
        assert made.grade(example, wrong).correct == (wrong == example.reference)


def replace_row(example: Example, number: int) -> dict[str, Any]:
    return example.row["input"]["icl_examples"][number]


def test_lines_have_all_lengths_in_turn() -> None:
    lengths = [len(read_list(generated("waiting_line/sort", 0, n, 1)["answer"]) or []) for n in range(8)]
    assert lengths == [3, 4, 5, 6] * 2
    assert len(read_list(generated("waiting_line_n15/sort", 0, 0, 0)["answer"]) or []) == 15


def test_places_are_counted_from_0() -> None:
    for number in range(20):
        row = generated("waiting_line/insert_index", 1, number, 0)
        line, after = read_list(row["input"]["context"]), read_list(row["answer"])
        assert line is not None
        assert after is not None
        assert after[row["input"]["index"]] == row["input"]["word"]
        assert [name for name in after if name != row["input"]["word"]] == line
        row = generated("waiting_line/remove_index", 1, number, 0)
        line, after = read_list(row["input"]["context"]), read_list(row["answer"])
        assert line is not None
        assert after == line[: row["input"]["index"]] + line[row["input"]["index"] + 1 :]


def test_a_generated_sudoku_has_one_solution_and_12_clues() -> None:
    """By trying all digits in its empty cells."""
    for number in range(5):
        row = generated("puzzle/sudoku_n4_12", 0, number, 0)
        puzzle = row["input"]["sudoku"].replace("\n", "")
        assert puzzle.count("0") == 4
        solutions = []
        for digits in product("1234", repeat=4):
            rest = iter(digits)
            grid = "".join(next(rest) if digit == "0" else digit for digit in puzzle)
            units = [grid[n : n + 4] for n in (0, 4, 8, 12)] + [grid[n::4] for n in range(4)]
            units += [grid[n : n + 2] + grid[n + 4 : n + 6] for n in (0, 2, 8, 10)]
            if all(sorted(unit) == list("1234") for unit in units):
                solutions.append(grid)
        assert solutions == [row["answer"].replace("\n", "")]


def test_shuffles_are_drawn_from_all_orders() -> None:
    orders = Counter()
    for number in range(0, 400, 4):
        row = generated("waiting_line/shuffle", 0, number, 0)
        line = read_list(row["input"]["context"]) or []
        orders[tuple(line.index(name) for name in read_list(row["answer"]["example"]) or [])] += 1
    assert len(orders) == 5


# --- the published files --------------------------------------------------------------------------------------------


def published(folder: Path, config: str | None = None, **row: Any) -> ParallelBench:
    """A task in the published format, with one row."""
    solved = {
        "input": {"context": '["x", "y"]', "word": "z"},
        "answer": {"input": ["x", "y"], "word": "z", "example": '["z", "x", "y"]'},
    }
    value = {
        "input": {"context": '["a", "b"]', "word": "c", "icl_examples": [solved]},
        "answer": {"input": ["a", "b"], "word": "c", "example": '["a", "c", "b"]'}, "metadata": {"length": 2},
    }  # fmt: skip
    (folder / "waiting_line").mkdir()
    (folder / "waiting_line" / "insert_random.jsonl").write_text(json.dumps(value | row) + "\n")
    prompt = {"prompt": 'Add "{word}" to:\\n{context}\n', "metric": "list_random_insert_score"}
    text = yaml.safe_dump({"waiting_line/insert_random": prompt}) if config is None else config
    (folder / "waiting_line" / "task_config.yaml").write_text(text)
    return benchmark("waiting_line/insert_random", path=str(folder))


def test_published_files_are_read(tmp_path: Path) -> None:
    """From the folder, or a task's file; line breaks written as backslash and n become such."""
    made = published(tmp_path)
    (example,) = made.examples()
    assert example.id == "waiting_line/insert_random-0"
    assert example.prompt == 'Add "c" to:\n["a", "b"]\n'
    assert example.history == (('Add "z" to:\n["x", "y"]\n', '["z", "x", "y"]'),)
    assert [turn["role"] for turn in example.messages()] == ["user", "assistant", "user"]
    assert made.grade(example, '["a", "b", "c"]').correct
    assert not made.grade(example, '["a", "b"]').correct
    assert made.doubtful_references([example]) is None
    file = replace(made, path=str(tmp_path / "waiting_line" / "insert_random.jsonl"))
    assert file.examples() == [example]
    (own,) = replace(file, template="{context} + {word}", shots=0).examples()
    assert (own.prompt, own.history) == ('["a", "b"] + c', ())


@pytest.mark.parametrize(
    ("settings", "row", "config", "sentence"),
    [
        ({"task": "puzzle/sudoku_n4_12"}, {}, None, "sudoku_n4_12.jsonl does not exist"),
        ({"shots": 2}, {}, None, "row 1 has 1 solved examples: set benchmark.shots=1."),
        ({}, {}, "{}", "task_config.yaml has no prompt of waiting_line/insert_random"),
        ({}, {}, "a: [", "task_config.yaml has no prompt of waiting_line/insert_random"),
        ({}, {"input": "x"}, None, "row 1 cannot be used: its field input is not an object"),
        ({}, {"answer": 3}, None, "row 1 cannot be used: its field answer is a number, not text"),
        ({}, {"answer": {"input": []}}, None, "row 1 cannot be used: its field answer is missing, not text"),
        ({"template": "{nothing}"}, {}, None, "'nothing' is not a name that benchmark.template can use: choose from context, word."),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, settings: Any, row: Any, config: str | None, sentence: str) -> None:
    made = replace(published(tmp_path, config, **row), **settings)
    with pytest.raises(UsageError) as refused:
        made.examples()
    assert sentence in str(refused.value)


def test_a_file_without_its_prompt(tmp_path: Path) -> None:
    made = published(tmp_path)
    (tmp_path / "waiting_line" / "task_config.yaml").unlink()
    with pytest.raises(UsageError, match=r"comes without task_config.yaml: set benchmark.template to the prompt"):
        made.examples()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("words_to_sentence/easy", "benchmark.task=words_to_sentence/easy is not supported: it is graded by a grammar checker"),
        ("paraphrase_summarize/samsum", "is not supported: it is graded by a grammar checker, BERTScore, BLEU and ROUGE."),
        ("waiting_line/shufle", "did you mean waiting_line/shuffle?"),
    ],
)  # fmt: skip
def test_other_tasks_are_refused(task: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        compose("benchmark=parallel_bench_line", f"benchmark.task={task}")
    assert sentence in str(refused.value)


def test_shots_of_other_files_are_refused() -> None:
    with pytest.raises(UsageError, match="shots_path has no use here"):
        compose("benchmark=parallel_bench_line", "benchmark.shots_path=x.jsonl")


def test_the_grid_of_a_sudoku_is_digits() -> None:
    assert read_sudoku("12\n34") is None
    assert read_sudoku("1234\n" * 4) == [[1, 2, 3, 4]] * 4


def test_it_runs_offline(rws) -> None:
    """Solved examples are part of the model's prompt, and of the record."""
    result = rws(
        "run",
        "model=tiny",
        "sampler=threshold",
        "benchmark=parallel_bench_puzzle",
        "benchmark.limit=2",
        "sampler.gen_length=8",
    )
    assert result.exit_code == 0, result.output
    lines = next(Path("outputs").rglob("v001/samples.jsonl")).read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["id"] for sample in samples] == ["puzzle/latin_square_n4-0", "puzzle/latin_square_n4-1"]
    assert all(len(sample["history"]) == 1 and sample["grade"]["correct"] is False for sample in samples)
