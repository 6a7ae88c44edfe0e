"""A compiled backbone gives the same tokens, from few shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dream_files import save_dream
from support import decode, make_sampler, make_settings, new_canvas

from rws_cli.models.compiled import compiled
from rws_cli.schedules.threshold import Threshold
from rws_cli.schedules.wino import Wino

SHAPES: list[tuple[int, ...]] = []


def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
    """Runs the graph as it was traced, and keeps the shapes of the token ids that it was traced for."""
    SHAPES.extend(tuple(i.shape) for i in inputs if i.dtype == torch.int64 and i.ndim == 2)
    return graph.forward


THRESHOLD, WINO = Threshold(kind="threshold", threshold=0.6), Wino(kind="wino", threshold=0.5, verify=0.4, most=None)


@pytest.mark.parametrize(
    ("family", "schedule"),
    [
        ("llada", THRESHOLD),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("llada", WINO), ("dream", THRESHOLD))),
    ],
)
def test_same_tokens_from_few_shapes(llada_folder: Path, tmp_path: Path, family: str, schedule: object) -> None:
    torch._dynamo.reset()
    SHAPES.clear()
    denoiser = make_settings(family, llada_folder if family == "llada" else save_dream(tmp_path)).load()
    sampler = make_sampler(12, block_length=6, schedule=schedule)
    answers = []
    for model in (denoiser, compiled(denoiser, backend)):  # type: ignore[arg-type]
        answers.append([])
        for prompts in ([[8, 9, 10], [11, 12, 13, 14], [9] * 7], [[8] * 20, [10, 11]]):
            names = [str(prompt) for prompt in prompts]
            canvas = new_canvas(prompts, names, 12, denoiser.mask_id, denoiser.pad_id, seed=0)
            decode(model, canvas, sampler)
            answers[-1] += canvas.completion_BG.tolist()
    assert answers[0] == answers[1]
    if not isinstance(schedule, Wino):  # whose passes with shadows are not compiled
        assert SHAPES
        assert set(SHAPES) <= {(4, 64), (2, 64), (1, 64)}
