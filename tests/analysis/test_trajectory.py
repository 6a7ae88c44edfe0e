"""A trace gives the tokens at every position after every step, also where tokens were masked again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from support import FakeDenoiser, make_sampler, new_canvas, search

from rws_cli.analysis.trajectory import END, Commit, trajectory_of, visible
from rws_cli.decoding.statistics import Statistics
from rws_cli.guidance.rws import Rws
from rws_cli.remasking.none import NoRemasking
from rws_cli.remasking.r3 import R3
from rws_cli.schedules.fixed import Fixed
from rws_cli.schedules.refine import Refine
from rws_cli.schedules.remdm import Remdm
from rws_cli.schedules.threshold import Threshold
from rws_cli.schedules.wino import Wino
from rws_cli.search.best_of_n import BestOfN

GUIDANCE = Rws(
    kind="rws",
    strength=1.0,
    form="linear",
    normalize="sigmoid",
    fill="argmax",
    target="all",
    reward_every=1,
    floor=1e-3,
)
R3 = R3(kind="r3", threshold=1.0, rounds=2, window=2, choose="confidence")
WAYS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "blocks": {"block_length": 4, "tokens_per_step": 2},
    "threshold": {"schedule": Threshold(kind="threshold", threshold=0.5)},
    "remdm": {
        "schedule": Remdm(kind="remdm", sigma="cap", eta=0.5, t_on=None, t_off=None),
        "steps": 12,
        "temperature": 1.0,
    },
    "refine": {"schedule": Refine(kind="refine", share=0.5, rounds=4, remask=2)},
    "wino": {"schedule": Wino(kind="wino", threshold=0.3, verify=0.9, most=None)},
    "r3": {"schedule": Fixed(kind="fixed"), "remasking": R3, "block_length": 4},
    "best_of_n": {"search": BestOfN(kind="best_of_n", particles=3), "temperature": 1.0},
}


class Fair:
    """A reward that reads the tokens."""

    statistics = Statistics(5.0, 2.0, 0.0, 10.0)

    def __call__(self, rows: list[int], tokens_BG: torch.Tensor, filled: list[float], step: int) -> list[float]:
        return [float(tokens.double().mean()) for tokens in tokens_BG]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_what_the_model_saw_is_what_the_trace_tells(way: str, seed: int) -> None:
    """The denoiser keeps the sequences that it is given, one per step: these are the states, token for token."""
    model = FakeDenoiser(seed=seed)
    sampler = make_sampler(12, guidance=GUIDANCE, **WAYS[way])
    rows = sampler.search.particles
    canvas = new_canvas([[1, 2, 3]] * rows, [f"x{n}" for n in range(rows)], 12, model.mask_id, 0, seed)
    found = search(model, canvas, sampler, Fair())
    (row,), (trace,) = found.rows, found.traces
    trajectory = trajectory_of(
        {"id": "x", **asdict(trace), "text": [str(t) for t in trace.token]}, {"tokens": [0] * 12}
    )
    states = [[place[1].text if place else str(model.mask_id) for place in state] for state in trajectory.states]
    seen = [[str(t) for t in call[row, 3:15].tolist()] for call in model.calls]
    # A step that commits nothing, as a ReMDM step may, is not part of the trajectory.
    before = {step.number: state for step, state in zip(trajectory.steps, states, strict=False)}
    for number, step in enumerate(trajectory.steps):
        shown = list(before[step.number])
        for position in step.remasked:
            shown[position] = str(model.mask_id)
        assert shown in seen, (way, number)
    assert states[-1] == [str(t) for t in canvas.completion_BG[row].tolist()]
    again = sum(len(step.remasked) for step in trajectory.steps)
    assert again == len(trace.step) - 12
    if way in ("refine", "r3"):
        assert again > 0
    if isinstance(sampler.remasking, NoRemasking) and way != "remdm":
        assert len(seen) == len(trajectory.steps)


def row(**columns: list[Any]) -> dict[str, Any]:
    n = len(columns["step"])
    return {"id": "a", "token": [7] * n, "confidence": [0.5] * n, "reward": [None] * n, "scale": [None] * n} | columns


def test_a_story_by_hand() -> None:
    trajectory = trajectory_of(
        row(step=[0, 0, 2, 4], position=[1, 3, 0, 1], text=["b", "d", "a", "B"], masked=[3, None, None, None]),
        {"tokens": [1, 2, 3, 4], "length": 2},
    )
    assert [step.number for step in trajectory.steps] == [0, 2, 4]
    assert ["".join(place[1].text if place else "." for place in state) for state in trajectory.states] == [
        "....", ".b.d", "ab.d", f"aB{END}d",
    ]  # fmt: skip
    assert trajectory.states[-1][1] == (2, Commit(1, "B", 0.5))
    assert trajectory.steps[0].confidence == 0.5
    ordered = trajectory.left_to_right()
    assert [[c.text for c in step.committed] for step in ordered.steps] == [["a", "B"], ["d"]]


def test_a_trace_without_texts_tells_ids() -> None:
    trajectory = trajectory_of(row(step=[0], position=[0], token=[41]), {"tokens": [41]})
    assert trajectory.states[-1][0] == (0, Commit(0, "[41]", 0.5))


def test_nothing_shown_is_obeyed() -> None:
    assert visible("a\nb\tc\x1b[31md\x07\u202ee <b>") == "a⏎b⇥c�[31md��e <b>"
