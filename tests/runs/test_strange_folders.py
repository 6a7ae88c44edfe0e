"""A run folder may come from anyone: every command that reads one answers it with a result or with one sentence."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import small_run
from typer.testing import CliRunner, Result

from rws_cli.cli import app

ESCAPE = "\x1b[31mred\x07\x9b2J"
STRANGE: list[Any] = [
    None, True, 0, 3, -1, 2.5, 1e308, -1e99, 10**30, float("nan"), float("inf"), "", "x", "1", [], {}, [[]], [1], {"a": 1},
    ESCAPE, "../../../E", "${oc.env:HOME}", "a\nb", "\ud800", "=1+1", "<img src=x>", "é" * 300,
]  # fmt: skip
READERS = [
    ["show", "RUN"],
    ["compare", "OTHER", "RUN"],
    ["replay", "RUN", "--plain"],
    ["push", "RUN", "./set"],
    ["table", "RUN", "OTHER"],
    ["grade", "RUN"],
    ["report", "RUN", "OTHER"],
    ["run", "--resume", "RUN"],
    ["run", "SMALL", "sampler=recorded_scale", "sampler.guidance.run=RUN"],
    ["pareto", "RUN", "OTHER"],
    ["judge", "OTHER", "RUN", "judge=verifier"],
    ["measure", "RUN", "metric=[length]"],
    ["report", "RUN"],
    ["report", "RUN", "--png"],
]
"""The first QUICK are quick: in the suite one of them reads each mutation, and others read some."""
QUICK = 6
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def runs(llada_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two small runs, r0 and r1, of another sampler each."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rws_cli.analysis.statistics.RESAMPLES", 50)
        patch.chdir(folder)
        for name, sampler in (("0", "rws"), ("1", "confidence")):
            settings = [*small_run(llada_folder), "benchmark.limit=3", f"sampler={sampler}", f"output={name}"]
            assert RUNNER.invoke(app, ["run", *settings]).exit_code == 0
            shutil.move(folder / name / "sudoku" / f"small-{sampler}" / "v001", folder / f"r{name}")
            shutil.rmtree(folder / name)
        yield folder


def read(folder: Path, command: list[str], llada: Path) -> Result:
    """Type a reading command at the run r0 in a folder; r1 is another, whole one."""
    words = {"RUN": ["r0"], "OTHER": ["r1"], "SMALL": [*small_run(llada), "benchmark.limit=3"]}
    arguments = [word for part in command for word in words.get(part, [part.replace("=RUN", "=r0")])]
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        result = RUNNER.invoke(app, arguments)
    assert time.monotonic() - started < 10, (arguments, time.monotonic() - started)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(arguments) from result.exception
    assert result.exit_code in (0, 1, 2), (arguments, result.output)
    assert not set("\x1b\x07\x9b") & set(result.output), (arguments, result.output)
    assert "Traceback" not in result.output
    if result.exit_code and arguments[0] != "run":
        assert len([line for line in result.output.splitlines() if line.startswith("rws: ")]) == 1, result.output
    return result


# --- mutations ----------------------------------------------------------------------------------------------------


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path for key, inner in items for path in [(*at, key), *places(inner, (*at, key))]]


def change(draw: random.Random, value: Any) -> Any:
    """A JSON value with one to three of its parts deleted, replaced, renamed, moved or added."""
    value = json.loads(json.dumps(value))
    if draw.random() < 0.03:
        return draw.choice(STRANGE)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if not (found := places(value)):
            break
        *way, last = draw.choice(found)
        node = value
        for key in way:
            node = node[key]
        kind = draw.randrange(6)
        if kind == 0:
            del node[last]
        elif kind == 1 and isinstance(node, dict):
            node[draw.choice(["x", ESCAPE, ""])] = node.pop(last)
        elif kind == 2 and isinstance(node, dict):
            node["more"] = draw.choice(STRANGE)
        elif kind == 3:
            node[last] = [node[last]]
        else:
            node[last] = draw.choice(STRANGE)
    return value


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def spoil(draw: random.Random, file: Path) -> None:
    """Make something else of a file."""
    content = file.read_bytes()
    kind = draw.randrange(9)
    file.unlink()
    if kind == 0:
        file.write_bytes(content[: draw.randrange(len(content))])
    elif kind == 1:
        at = draw.randrange(len(content))
        file.write_bytes(content[:at] + draw.randbytes(draw.choice([1, 4, 64])) + content[at + 4 :])
    elif kind == 2:
        file.write_bytes(draw.randbytes(300))
    elif kind == 3:
        file.write_bytes(b"")
    elif kind == 4:
        file.mkdir()
    elif kind == 5:
        os.mkfifo(file)
    elif kind == 6:
        file.symlink_to(draw.choice([file.name, "/dev/zero", "/etc/passwd", "nowhere"]))
    elif kind == 7:
        file.write_text(
            draw.choice([nested(150), nested(100_000), "3\n", "null", '{"a": ' + nested(40) + "}", "NaN\n"])
        )
    # else it stays away


def change_trace(draw: random.Random, file: Path) -> None:
    table = pq.read_table(file)
    name = draw.choice(table.column_names)
    rows = table.to_pylist()
    row = draw.choice(rows)
    kind = draw.randrange(6)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        values = draw.choice([["x"] * len(rows), [None] * len(rows), [1.5] * len(rows), [[["y"]]] * len(rows)])
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    else:
        if isinstance(row[name], list) and row[name]:
            n = draw.randrange(len(row[name]))
            if kind == 2:
                row[name].pop(n)
            elif kind == 3:
                row[name][n] = None
            elif isinstance(row[name][n], str):
                row[name][n] = ESCAPE
            else:
                wrong = draw.choice([-1, 7, 2**31 - 1, 0])
                row[name][n] = not row[name][n] if isinstance(row[name][n], bool) else wrong
        else:
            row[name] = draw.choice([None, "x", ESCAPE])
        table = pa.Table.from_pylist(rows, schema=table.schema)
    pq.write_table(table, file)


def mutate(seed: int, run: Path) -> str:
    """One mutation of a run folder; says which."""
    draw = random.Random(f"mutation {seed}")
    name = draw.choice(["manifest.json"] * 3 + ["samples.jsonl"] * 3 + ["metrics.json"] * 2 + ["trace.parquet"] * 2)
    file, kind = run / name, draw.random()
    if kind < 0.25:
        spoil(draw, file)
    elif kind < 0.3:
        other = run / draw.choice(["manifest.json", "samples.jsonl", "metrics.json", "trace.parquet"])
        (run / "kept").write_bytes(file.read_bytes())
        file.write_bytes(other.read_bytes())
        other.write_bytes((run / "kept").read_bytes())
    elif name == "trace.parquet":
        change_trace(draw, file)
    elif name == "samples.jsonl":
        lines = file.read_text().splitlines()
        n = draw.randrange(len(lines))
        lines[n] = json.dumps(change(draw, json.loads(lines[n])))
        file.write_text("\n".join(lines) + "\n")
    else:
        file.write_text(json.dumps(change(draw, json.loads(file.read_text()))))
    return name


def check_mutation(seed: int, runs: Path, tmp_path: Path, llada: Path, commands: list[list[str]]) -> None:
    for n, command in enumerate(commands):
        shutil.copytree(runs, tmp_path / str(n))
        mutate(seed, tmp_path / str(n) / "r0")
        try:
            read(tmp_path / str(n), command, llada)
        except AssertionError as error:
            raise AssertionError(f"mutation {seed}, {' '.join(command)}") from error
        shutil.rmtree(tmp_path / str(n))


def test_a_hundred_mutations_of_a_run_folder(runs: Path, llada_folder: Path, tmp_path: Path) -> None:
    for seed in range(100):
        slow = [READERS[QUICK + seed // 20]] if seed % 20 == 0 else []
        check_mutation(seed, runs, tmp_path, llada_folder, [READERS[seed % QUICK], *slow])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_mutations_by_every_command(seed: int, runs: Path, llada_folder: Path, tmp_path: Path) -> None:
    drawn = [["report", "RUN"], ["report", "RUN", "--png"]]  # of these a quarter, for figures take their time
    commands = [command for command in READERS if command not in drawn or seed % 4 == 0]
    check_mutation(seed, runs, tmp_path, llada_folder, commands)
