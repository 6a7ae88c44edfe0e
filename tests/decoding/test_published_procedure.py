"""`confidence` at batch 1 against LLaDA's published procedure, written here slowly from its description."""

from __future__ import annotations

import pytest
import torch
from support import FakeDenoiser, make_sampler

from rws_cli.decoding.canvas import new_canvas
from rws_cli.decoding.loop import decode
from rws_cli.decoding.noise import row_key, uniform
from rws_cli.decoding.prediction import GUMBEL, ORDER, PURPOSES

EXAMPLE = "example-7"


def published(
    model: FakeDenoiser, prompt: list[int], gen: int, block: int, steps: int, temperature: float, cfg: float,
    remasking: str, seed: int,
) -> list[int]:  # fmt: skip
    """One row: block by block, every masked position is predicted, and the surest of the block are kept.

    The noise is the runner's own (one uniform a step, position and token), so that both draw the same.
    """
    x = prompt + [model.mask_id] * gen
    steps_per_block = steps // (gen // block)
    key = torch.tensor([row_key(seed, EXAMPLE)])

    def logits_of(tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        return model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0]

    for b in range(gen // block):
        begin, end = len(prompt) + b * block, len(prompt) + (b + 1) * block
        masked_at_start = sum(token == model.mask_id for token in x[begin:end])
        plan = [masked_at_start // steps_per_block] * steps_per_block
        for i in range(masked_at_start % steps_per_block):
            plan[i] += 1
        for i, count in enumerate(plan):
            step = b * steps_per_block + i
            logits = logits_of(x)
            if cfg > 0:
                blind = logits_of([model.mask_id] * len(prompt) + x[len(prompt) :])
                logits = blind + (cfg + 1) * (logits - blind)
            candidates = []
            for position in range(begin, end):
                if x[position] != model.mask_id:
                    continue
                z = logits[position].double()
                place = torch.tensor([position - len(prompt)])
                if temperature > 0:
                    u = uniform(key, step * PURPOSES + GUMBEL, place, len(z))[0]
                    token = int((z.exp() / (-u.log()) ** temperature).argmax())
                else:
                    token = int(z.argmax())
                if remasking == "low_confidence":
                    sure = float(torch.softmax(z, -1)[token])
                else:
                    sure = float(uniform(key, step * PURPOSES + ORDER, place, 1))
                candidates.append((sure, position, token))
            for _, position, token in sorted(candidates, reverse=True)[:count]:
                x[position] = token
    return x[len(prompt) :]


CASES = [
    (gen, block, steps, temperature, cfg)
    for gen, block, steps in (
        (8, 8, 8),
        (12, 4, 12),
        (12, 4, 6),
        (10, 5, 4),
        (12, 12, 5),
        (16, 8, 6),
        (9, 3, 9),
        (7, 7, 1),
    )
    for temperature in (0.0, 0.7, 1.5)
    for cfg in (0.0, 1.5)
]


@pytest.mark.parametrize(("gen", "block", "steps", "temperature", "cfg"), CASES)
def test_same_tokens_as_the_published_procedure(
    gen: int, block: int, steps: int, temperature: float, cfg: float
) -> None:
    for model_seed in range(4):
        for order, remasking in (("confidence", "low_confidence"), ("random", "random")):
            model = FakeDenoiser(vocabulary=14, mask_id=13, seed=model_seed)
            prompt = [3, 1, 4, 1, 5][: 2 + model_seed]
            expected = published(model, prompt, gen, block, steps, temperature, cfg, remasking, seed=9)
            canvas = new_canvas([prompt], [EXAMPLE], gen, model.mask_id, 0, seed=9)
            sampler = make_sampler(
                gen, block_length=block, steps=steps, temperature=temperature, cfg_scale=cfg, order=order
            )
            decode(model, canvas, sampler)
            assert canvas.response_BG[0].tolist() == expected
            assert model.mask_id not in expected
