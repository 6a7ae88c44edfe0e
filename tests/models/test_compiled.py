"""A compiled backbone gives the same tokens, from few shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dream_files import save_dream
from support import make_sampler, make_settings

from rws_cli.config.schema import ThresholdSchedule, WinoSchedule
from rws_cli.decoding.canvas import new_canvas
from rws_cli.decoding.loop import decode
from rws_cli.models.compiled import compiled

SHAPES: list[tuple[int, ...]] = []


def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
    """Runs the graph as it was traced, and keeps the shapes of the token ids that it was traced for."""
    SHAPES.extend(tuple(i.shape) for i in inputs if i.dtype == torch.int64 and i.ndim == 2)
    return graph.forward


THRESHOLD, WINO = ThresholdSchedule("threshold", 0.6), WinoSchedule("wino", 0.5, 0.4, None)


@pytest.mark.parametrize(("family", "schedule"), [("llada", THRESHOLD), ("llada", WINO), ("dream", THRESHOLD)])
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
            answers[-1] += canvas.response_BG.tolist()
    assert answers[0] == answers[1]
    if not isinstance(schedule, WinoSchedule):  # whose passes with shadows are not compiled
        assert SHAPES
        assert set(SHAPES) <= {(4, 64), (2, 64), (1, 64)}
