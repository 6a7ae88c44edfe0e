"""Replays: what is on the screen after each step and key, and a prompt decoded at once."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.style import Style
from rich.text import Text

from rws_cli.analysis.trajectory import Commit, Step, Trajectory
from rws_cli.report.replay import Picture, Player, Scene, curve, window

STORY = Trajectory(
    "x",
    4,
    3,
    [
        Step(0, 0.5, 1.2, [Commit(2, "c", 0.9), Commit(3, "<end>", 1.0)]),
        Step(1, 1.5, 1.6, [Commit(0, "a\x1b[2J", 0.4)]),
        Step(2, 1.0, 1.4, [Commit(1, "b", 0.7)], [0]),
        Step(3, 1.0, 1.4, [Commit(0, "A", 0.8)]),
    ],
)


def shown(n: int, **options: bool) -> str:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(Picture(Scene(STORY, "run", "a prompt\n" * 9, "right"), n, **options))
    return capture.get()


def test_masks_fill_in_and_are_masked_again() -> None:
    lines = [shown(n).splitlines() for n in range(5)]
    assert [screen[7] for screen in lines] == ["····", "··c∎", "a�[2Jc∎".replace("c", "·c"), "·bc∎", "Abc∎"]
    assert lines[0][:6] == ["run", *["a prompt"] * 4, "…"]
    assert lines[4][0] == "run · right"  # not before the end
    assert "2 of 4 steps · 3 of 4 tokens · confidence 0.400" in lines[2]
    assert "reward 1.500 scale 1.600 ▁█" in lines[2]
    assert "\x1b[2J" not in shown(2, by_confidence=True)


def test_a_long_answer_is_shown_around_what_is_new() -> None:
    lines = [Text(f"line {n}", style="underline" if n == 50 else "") for n in range(100)]
    lines[50].append("new", style=Style(underline=True))
    seen = [line.plain for line in window(lines, 7)]
    assert seen == ["⋮", "line 48", "line 49", "line 50new", "line 51", "line 52", "⋮"]
    assert [line.plain for line in window(lines[:3], 7)] == ["line 0", "line 1", "line 2"]
    assert [line.plain for line in window(lines[:9], 3)] == ["line 0", "line 1", "⋮"]
    trajectory = Trajectory("x", 2000, 2000, [Step(0, committed=[Commit(n, "ab ", 0.5) for n in range(2000)])])
    console = Console(width=80, height=24, force_terminal=True, color_system=None)
    for whole, most in ((False, 24), (True, 100)):
        with console.capture() as capture:
            console.print(Picture(Scene(trajectory, "run", "a prompt"), 1, keys="keys", whole=whole))
        seen = capture.get().splitlines()
        assert seen[0] == "run"
        assert seen[-1] == "keys"
        assert len(seen) <= most
        assert (len(seen) > 24) == whole


def test_lines_of_an_answer_are_lines_on_the_screen() -> None:
    words = ["def f():", "\n    ", "return 1", "\n\n", "f()"]
    trajectory = Trajectory("x", 5, 5, [Step(0, committed=[Commit(n, word, 0.9) for n, word in enumerate(words)])])
    console = Console(width=80)
    with console.capture() as capture:
        console.print(Picture(Scene(trajectory, "run", ""), 1, whole=True))
    assert [line.rstrip() for line in capture.get().splitlines()[3:7]] == ["def f():⏎", "    return 1⏎", "⏎", "f()"]


def test_a_curve_goes_from_its_least_to_its_greatest() -> None:
    assert curve([1.0, None, 3.0, 2.0]) == "▁█▅"
    assert curve([2.0, 2.0]) == "▄▄"


def test_keys() -> None:
    player = Player([Scene(STORY, "one", ""), Scene(STORY, "two", "")])
    player.tick()
    assert player.n == 1
    player.press(" ")
    player.tick()
    assert player.n == 1
    for key, n in (("right", 2), ("left", 1), ("left", 0), ("left", 0), *[("l", k) for k in (1, 2, 3, 4, 4)], ("0", 0)):
        player.press(key)
        assert player.n == n
    pace = player.seconds
    player.press("up")
    assert player.seconds == pace / 2
    player.press("down")
    assert player.seconds == pace
    player.press("n")
    assert player.scene.title == "two"
    player.press("n")
    assert player.scene.title == "one"
    player.press("?")
    assert not player.ended
    player.press("q")
    assert player.ended


def test_a_replay_line_by_line(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    run = "outputs/sudoku/small-rws"
    first = rws("replay", run).output
    samples = [json.loads(line) for line in (tmp_path / run / "latest" / "samples.jsonl").read_text().splitlines()]
    assert first.splitlines()[0].startswith(f"{samples[0]['id']} · small · rws · ")
    assert len(re.findall(r"^\d+ of 6 steps ", first, re.M)) == 6
    assert "6 of 6 steps · 36 of 36 tokens" in first
    assert "scale 1." in first
    second = rws("replay", run, "1").output
    assert second == rws("replay", run, samples[1]["id"]).output != first
    for wrong in ("99", "sudoku-test-0-00"):
        result = rws("replay", run, wrong)
        assert result.exit_code == 2
        assert "is not an example of" in result.output
    (tmp_path / run / "latest" / "trace.parquet").unlink()
    assert rws("replay", run).exit_code == 1


def test_in_a_terminal_keys_are_read_and_the_terminal_is_put_back(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "rws_cli", "replay", "outputs/sudoku/small-rws"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, cwd=tmp_path, env=environment)
    seen = ""

    def until(what: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while what not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen):
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([parent], [], [], 1.0)[0]:
                seen += os.read(parent, 65536).decode(errors="replace")

    until("6 of 6 steps")
    os.write(parent, b"0")
    seen = ""
    until("1 of 6 steps")
    os.write(parent, b"\x1b[C" * 9)
    until("6 of 6 steps")
    os.write(parent, b"q")
    until("36 of 36 tokens")
    assert process.wait(30) == 0
    import termios

    assert termios.tcgetattr(child)[3] & termios.ICANON
    os.close(parent)
    os.close(child)


@pytest.fixture
def model(llada_folder: Path) -> list[str]:
    return [f"model.path={llada_folder}", "model.name=small", "sampler=confidence", "reward=none"]


def test_a_prompt_is_answered(rws, model: list[str], tmp_path: Path) -> None:
    answer = rws("generate", "w1 w2", *model, "sampler.gen_length=8")
    assert answer.exit_code == 0, answer.output
    generated = json.loads(rws("generate", "w1 w2", *model, "sampler.gen_length=8", "--json").stdout)
    assert answer.stdout == generated["sample"]["completion"] + "\n"
    assert sorted(generated["trace"]["position"]) == list(range(8))
    assert generated["config"]["benchmark"]["text"] == generated["sample"]["prompt"] == "w1 w2"
    assert generated["sources"]["model"]["weights"]
    assert not (tmp_path / "outputs").exists()
    again = rws("run", *model, "benchmark=prompt", "benchmark.text='w1 w2'", "sampler.gen_length=8")
    assert again.exit_code == 0, again.output
    line = (tmp_path / "outputs/prompt/small-confidence/latest/samples.jsonl").read_text()
    assert json.loads(line)["tokens"] == generated["sample"]["tokens"]


def test_a_prompt_may_hold_anything(rws, model: list[str]) -> None:
    prompt = "a=b, 'c' \"d\" {e} ${f} \\ \n é"
    result = rws("generate", prompt, *model, "sampler.gen_length=4", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sample"]["prompt"] == prompt


def test_what_generate_refuses(rws, model: list[str]) -> None:
    for wrong, said in (
        (["benchmark=sudoku"], "leave out benchmark=…"),
        (["sampler=nothing"], "sampler=nothing is not known"),
        (["reward=verifier", "sampler=rws"], "reward=verifier needs a benchmark that is graded"),
    ):
        result = rws("generate", "w1", *model, *wrong)
        assert result.exit_code == 2, result.output
        assert said in result.output
        assert "Traceback" not in result.output
