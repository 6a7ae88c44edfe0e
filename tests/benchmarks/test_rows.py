"""Local data files: read by name as they are now, and a broken one says where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rws_cli.benchmarks.rows import file_rows
from rws_cli.config.composing import compose
from rws_cli.errors import UsageError


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in file_rows(path, str(path))]


@pytest.mark.parametrize("name", ["a[1].jsonl", "*.jsonl", "a?.jsonl", "x=1 y.jsonl", "hf:.jsonl", "{a,b}.jsonl"])
def test_a_path_is_a_name_and_never_a_pattern(tmp_path: Path, name: str) -> None:
    for other in ("a1.jsonl", "ax.jsonl", "b.jsonl"):
        (tmp_path / other).write_text('{"question": "another", "answer": "1"}\n')
    (tmp_path / name).write_text('{"question": "this", "answer": "1"}\n')
    benchmark = compose("benchmark=gsm8k").benchmark
    benchmark.path = str(tmp_path / name)
    assert [example.row["question"] for example in benchmark.examples()] == ["this"]


def test_a_parquet_file_in_a_folder_named_like_a_partition_has_its_own_fields(tmp_path: Path) -> None:
    (tmp_path / "split=3").mkdir()
    path = tmp_path / "split=3" / "d.parquet"
    pq.write_table(pa.table({"question": ["a", "b"], "answer": [1, None]}), path)
    assert rows(path) == [{"question": "a", "answer": 1}, {"question": "b", "answer": None}]


def test_a_file_is_read_as_it_is_now_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is rewritten with the same size at the same time, where nothing else can be written."""
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setattr("datasets.load_dataset", lambda **_: pytest.fail("datasets was asked"))
    path = tmp_path / "d.jsonl"
    for text in ("one", "two"):
        path.write_text(json.dumps({"question": text}))
        os.utime(path, (1, 1))
        assert rows(path) == [{"question": text}]


ONE_TWO = [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.jsonl", '{"a": "1"}\r\n\n  {"a": "2"}', ONE_TWO),
        ("d.jsonl", '\ufeff{"a": "1"}\n', ONE_TWO[:1]),
        ("d.json", json.dumps(ONE_TWO), ONE_TWO),
        ("d.jsonl", json.dumps(ONE_TWO, indent=2), ONE_TWO),
        ("d.json", "\n".join(json.dumps(row, indent=2) for row in ONE_TWO), ONE_TWO),
        ("d.jsonl", '{"a": 1}\n{"a": "x", "b": [1]}\n', [{"a": 1}, {"a": "x", "b": [1]}]),
        ("d.jsonl", '{"a": "\\ud83d\\ude00\u2028"}\n', [{"a": "\U0001f600\u2028"}]),
        ("d.jsonl", '{"a": 123456789012345678901234567890}', [{"a": 123456789012345678901234567890}]),
        ("d.csv", "a,b\n1,007\n1.50,NA\nNone,null\n,nan\n", [
            {"a": "1", "b": "007"}, {"a": "1.50", "b": "NA"}, {"a": "None", "b": "null"}, {"a": None, "b": "nan"},
        ]),
        ("d.csv", '\ufeffa,b\r\n"x, ""y""\nz",1\r\n\r\nlast\r\n', [{"a": 'x, "y"\nz', "b": "1"}, {"a": "last", "b": None}]),
        ("d.csv", f"a\n{'x' * 200_000}\n", [{"a": "x" * 200_000}]),
        ("d.csv", "a,b\n1,2,,\n", [{"a": "1", "b": "2"}]),
    ],
)  # fmt: skip
def test_what_files_hold(tmp_path: Path, name: str, content: str, expected: list[dict]) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert rows(tmp_path / name) == expected


GOOD = b'{"a": "1"}\n'


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("d.jsonl", GOOD + b'{"a": "2', r"line 2, column 7: Unterminated string"),
        ("d.jsonl", GOOD + b'{"a": 2\n' + GOOD, r"line 2, column 8"),
        ("d.jsonl", b'{"a": "2\n' + GOOD, r"line 1, column \d"),
        ("d.jsonl", GOOD + b'{"a": "x\\ud800y"}\n', r"line 2: \\ud800 in the field a is half of a surrogate pair"),
        ("d.jsonl", GOOD + b'{"a": 1, "b": {"c": 1, "c": 2}}\n', r"line 2: the field c occurs twice"),
        ("d.jsonl", GOOD + b'"text"\n', r"line 2 is not an object"),
        ("d.jsonl", GOOD + b'{"a": NaN}\n', r"line 2: NaN is not JSON"),
        ("d.jsonl", GOOD + b"[" * 100_000, r"line 2: it is nested too deeply"),
        ("d.jsonl", GOOD + b'{"a": ' + b"1" * 5000 + b"}", r"line 2: Exceeds the limit"),
        ("d.jsonl", GOOD + b'{"a": "\xe9"}\n', r"is not valid UTF-8 at line 2, column 8"),
        ("d.json", b'[{"a": 1},\n {"a" 2}]', r"line 2, column 7: Expecting ':'"),
        ("d.json", b'[{"a": 1}, 2]', r"row 2 is not an object"),
        ("d.csv", b"a,b\ncaf\xe9,1\n", r"is not valid UTF-8 at line 2, column 4"),
        ("d.csv", b"a,b\n1,2\n3,4,5\n", r"line 3 has 3 cells, and the header 2"),
        ("d.csv", b'a,b\n1,2\n"3,4\n5,6\n', r"line 3: unexpected end of data"),
        ("d.csv", b"a,a\n1,2\n", r"two columns have the name a"),
        ("d.parquet", b"PAR1 and no more", r"cannot be read: after row 0: "),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, name: str, content: bytes, where: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=where) as caught:
        rows(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hubs_broken_data_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    from datasets.exceptions import DatasetGenerationError

    def load_dataset(**_: Any) -> None:
        raise DatasetGenerationError("An error occurred") from ValueError("Column(/a) was specified twice in row 3")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UsageError, match=r"gsm8k cannot be read: Column\(/a\) was specified twice in row 3\."):
        compose("benchmark=gsm8k").benchmark.examples()
