"""A decoding as an animation in the terminal: masks are replaced by tokens, with reward and scale next to them."""

import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.style import Style
from rich.text import Text

from rws_cli.analysis.trajectory import BREAK, Trajectory, visible
from rws_cli.errors import RunError, UsageError, nearest
from rws_cli.report.colors import CONFIDENCES, STEPS, ink, mixed
from rws_cli.runs.reading import read_run

MASK = "·"
SECONDS = 8.0
"""Seconds that a replay takes at its initial speed, as long as a step takes between 1/50 s and SLOWEST."""
SLOWEST = 0.5
KEYS = "space stop/go · ←→ step · ↑↓ speed · 0 again · c color · n/p example · q quit"
LADDER = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Scene:
    """A decoding to show. outcome: its grade and GOD; "" while it is not finished."""

    trajectory: Trajectory
    title: str
    prompt: str
    outcome: str = ""


def scenes(run: Path, example: str | None) -> tuple[list[Scene], int]:
    """The decodings of a run, and the index of the requested example, by its id or its number from 0 (default: the
    first). Raises UsageError if it does not exist, RunError if no example is finished."""
    recorded = read_run(run, traced=True)
    ids = list(recorded.samples)
    if not ids:
        raise RunError(f"{run} has no finished example: there is nothing to show.")
    name = f"{recorded.config['model']['name']} · {recorded.config['sampler']['name']}"
    decodings = [
        Scene(
            trajectory,
            f"{trajectory.id} · {name}",
            recorded.samples[trajectory.id]["prompt"],
            outcome(recorded.samples[trajectory.id]),
        )
        for trajectory in recorded.trajectories(ids)
    ]
    return decodings, 0 if example is None else place_of(example, ids, run)


def place_of(example: str, ids: Sequence[str], run: Path) -> int:
    if example in ids:
        return list(ids).index(example)
    if example.isdecimal() and len(example) < 10 and int(example) < len(ids):
        return int(example)
    raise UsageError(
        f"{example} is not an example of {run}{nearest(example, list(ids)) or '.'} Give an id, such as {ids[0]}, or a number "
        f"from 0 to {len(ids) - 1}."
    )


def outcome(sample: dict[str, Any]) -> str:
    """The grade of a completion, and its GOD."""
    grade, god = sample["grade"], sample["order"]["god_tokens"]
    parts = (
        [] if grade is None else ["correct" if grade["correct"] else f"wrong, {grade['partial']:.0%} partial credit"]
    )
    return " · ".join([*parts, *([] if god is None else [f"GOD {god:.2f}"])])


@dataclass(frozen=True)
class Picture:
    """A scene after its first n steps. whole: show a long completion in full; else only the lines that fit the
    terminal, around the newest tokens."""

    scene: Scene
    n: int
    by_confidence: bool = False
    keys: str = ""
    whole: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        trajectory = self.scene.trajectory
        head = Text(visible(self.scene.title), style="bold")
        if self.scene.outcome and self.n == len(trajectory.steps):
            head.append(f" · {self.scene.outcome}", style="default")
        above = [head, _prompt(self.scene.prompt), Text()]
        below = [Text(), status(trajectory, self.n), *([Text(self.keys, style="dim")] if self.keys else [])]
        lines = list(tokens(trajectory, self.n, self.by_confidence).wrap(console, options.max_width))
        if not self.whole:
            taken = sum(len(text.wrap(console, options.max_width)) for text in (*above, *below))
            lines = window(lines, max(3, console.height - taken - 1))
        yield from (*above, *lines, *below)


def window(lines: list[Text], room: int) -> list[Text]:
    """The lines that fit, with the first new token in the middle; dots stand for omitted lines."""
    if len(lines) <= room:
        return lines
    new = next((n for n, line in enumerate(lines) if any("underline" in str(span.style) for span in line.spans)), 0)
    start = min(max(0, new - room // 2), len(lines) - room)
    visible_lines = lines[start : start + room]
    if start:
        visible_lines[0] = Text("⋮", style="dim")
    if start + room < len(lines):
        visible_lines[-1] = Text("⋮", style="dim")
    return visible_lines


def _prompt(prompt: str, lines: int = 4) -> Text:
    text_lines = [visible(line) for line in prompt.splitlines()]
    first_lines = text_lines[:lines] + (["…"] if len(text_lines) > lines else [])
    return Text("\n".join(line if len(line) <= 400 else line[:400] + "…" for line in first_lines), style="dim")


def tokens(trajectory: Trajectory, n: int, by_confidence: bool = False) -> Text:
    """The completion after n steps; tokens are colored by step or by confidence, and new ones are underlined. Fixed ones
    have no color."""
    text = Text()
    for place in trajectory.states[n]:
        if place is None:
            text.append(MASK, style="dim")
            continue
        step, commit = place
        token = trajectory.display(commit).replace(BREAK, BREAK + "\n")
        if step < 0:
            text.append(token)
            continue
        if by_confidence and commit.confidence is not None:
            color = mixed(CONFIDENCES, commit.confidence)
        else:
            color = mixed(STEPS, step / max(1, len(trajectory.steps) - 1))
        back = "#{:02x}{:02x}{:02x}".format(*color)
        text.append(token, style=Style(color=ink(color), bgcolor=back, underline=step == n - 1))
    return text


def status(trajectory: Trajectory, n: int, between: str = "\n") -> Text:
    """Progress, and the last step's confidence, reward and scale, with a sparkline of the scales."""
    filled = sum(place is not None for place in trajectory.states[n])
    parts = [f"{n} of {len(trajectory.steps)} steps · {filled} of {trajectory.positions} tokens"]
    if n:
        step = trajectory.steps[n - 1]
        parts[0] += "" if step.confidence is None else f" · confidence {step.confidence:.3f}"
        if step.scale is not None:
            reward = "" if step.reward is None else f"reward {step.reward:.3f} "
            parts.append(f"{reward}scale {step.scale:.3f} {curve([s.scale for s in trajectory.steps[:n]])}")
    return Text(between.join(parts))


def curve(values: Sequence[float | None], most: int = 24) -> str:
    """A sparkline of the last values, from their minimum to their maximum."""
    defined = [value for value in values if value is not None][-most:]
    low, high = min(defined), max(defined)
    rungs = len(LADDER) - 1
    return "".join(LADDER[round((v - low) / (high - low) * rungs) if high > low else rungs // 2] for v in defined)


def print_plain(scene: Scene, console: Console) -> None:
    """One line per step, for pipes and files."""
    console.print(Text(f"{visible(scene.title)}{' · ' + scene.outcome if scene.outcome else ''}"), soft_wrap=True)
    console.print(_prompt(scene.prompt), soft_wrap=True)
    for n in range(1, len(scene.trajectory.steps) + 1):
        line = "".join(
            MASK if place is None else scene.trajectory.display(place[1]) for place in scene.trajectory.states[n]
        )
        console.print(Text(f"{status(scene.trajectory, n, ' · ')}\n  {line}"), soft_wrap=True)


@dataclass
class Player:
    """The state of the player: the scene, the number of steps shown, seconds per step, and whether it is playing."""

    scenes: list[Scene]
    number: int = 0
    n: int = 0
    seconds: float = 0.0
    going: bool = True
    by_confidence: bool = False
    ended: bool = False

    def __post_init__(self) -> None:
        self.seconds = min(SLOWEST, max(0.02, SECONDS / max(1, self.steps)))

    @property
    def scene(self) -> Scene:
        return self.scenes[self.number]

    @property
    def steps(self) -> int:
        return len(self.scene.trajectory.steps)

    def tick(self) -> None:
        """Show the next step, if playing."""
        if self.going and self.n < self.steps:
            self.n += 1

    def press(self, key: str) -> None:
        """Handle a key; unknown keys are ignored."""
        if key == " ":
            self.going = not self.going
        elif key in ("right", "l"):
            self.going, self.n = False, min(self.n + 1, self.steps)
        elif key in ("left", "h"):
            self.going, self.n = False, max(self.n - 1, 0)
        elif key in ("up", "+", "k"):
            self.seconds = max(self.seconds / 2, 0.005)
        elif key in ("down", "-", "j"):
            self.seconds = min(self.seconds * 2, 5.0)
        elif key == "0":
            self.n, self.going = 0, True
        elif key == "c":
            self.by_confidence = not self.by_confidence
        elif key in ("n", "p"):
            self.number = (self.number + (1 if key == "n" else -1)) % len(self.scenes)
            self.n, self.going = 0, True
        elif key in ("q", "\x1b", "\x03"):
            self.ended = True

    def picture(self) -> Picture:
        return Picture(self.scene, self.n, self.by_confidence, KEYS)


def play(decodings: list[Scene], start: int, console: Console) -> None:
    """Play a scene, and others on request, until the user quits; without a keyboard, play it once."""
    player = Player(decodings, start)
    with (
        keyboard() as read,
        Live(player.picture(), console=console, auto_refresh=False, screen=read is not None) as live,
    ):
        while not player.ended:
            key = read(player.seconds if player.going and player.n < player.steps else None) if read else _wait(player)
            if key is None:
                player.tick()
            else:
                player.press(key)
            live.update(player.picture(), refresh=True)
    if read is not None:
        console.print(Picture(player.scene, player.n, player.by_confidence, whole=True))


def _wait(player: Player) -> str | None:
    time.sleep(player.seconds)
    return "q" if player.n == player.steps else None


ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}


@contextmanager
def keyboard() -> Iterator[Any]:
    """Yield a function that waits this many seconds (None: forever) for a key and returns its name, or None if there
    was none in time. Yield None if no keyboard can be read."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        yield None
        return
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def ready(seconds: float | None) -> bool:
        return bool(select.select([descriptor], [], [], seconds)[0])

    def read(seconds: float | None) -> str | None:
        if not ready(seconds):
            return None
        pressed = os.read(descriptor, 1).decode(errors="replace")
        if not pressed:
            return "q"  # the terminal is gone
        if pressed == "\x1b" and ready(0.05):
            sequence = os.read(descriptor, 2).decode(errors="replace")
            return ARROWS.get(sequence[-1:], "") if sequence[:1] in ("[", "O") else ""
        return pressed

    try:
        tty.setcbreak(descriptor)
        yield read
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
