"""`confidence` at batch 1 against LLaDA's published procedure, written here slowly from its description: its generate.py
before commit f51cb17 of 2025-06-02, which ranks float64 probabilities, and since, which ranks those of the model's dtype."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from support import FakeDenoiser, decode, make_sampler, new_canvas

from rws_cli.decoding.noise import row_key, uniform
from rws_cli.decoding.prediction import GUMBEL, ORDER, PURPOSES

EXAMPLE = "example-7"


@dataclass(frozen=True)
class Published:
    """Settings of the procedure. dtype: of the logits and of the probabilities that are ranked."""

    gen: int
    block: int
    steps: int
    temperature: float
    cfg: float
    remasking: str
    dtype: torch.dtype = torch.float64
    eos: str = "none"
    seed: int = 9


def published(model: FakeDenoiser, prompt: list[int], s: Published) -> list[int]:
    """One row: block by block, every masked position is predicted, and the surest of the block are kept.

    The noise is the runner's own (one uniform a step, position and token), so that both draw the same. Ties go left.
    """
    x = prompt + [model.mask_id] * s.gen
    steps_per_block = s.steps // (s.gen // s.block)

    def logits_of(tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        return model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0].to(s.dtype)

    for b in range(s.gen // s.block):
        begin, end = len(prompt) + b * s.block, len(prompt) + (b + 1) * s.block
        masked_at_start = sum(token == model.mask_id for token in x[begin:end])
        plan = [masked_at_start // steps_per_block] * steps_per_block
        for i in range(masked_at_start % steps_per_block):
            plan[i] += 1
        for i, count in enumerate(plan):
            logits = logits_of(x)
            if s.cfg > 0:
                blind = logits_of([model.mask_id] * len(prompt) + x[len(prompt) :])
                logits = blind + (s.cfg + 1) * (logits - blind)
            if s.eos == "logits_eos_inf":
                logits[:, model.eos_ids[0]] = -torch.inf
            candidates = [
                (*proposed(model, logits[position], position - len(prompt), b * steps_per_block + i, s), position)
                for position in range(begin, end)
                if x[position] == model.mask_id
            ]
            for _, token, position in sorted(candidates, key=lambda one: (-one[0], one[2]))[:count]:
                x[position] = token
    return x[len(prompt) :]


def proposed(model: FakeDenoiser, z: torch.Tensor, position: int, step: int, s: Published) -> tuple[float, int]:
    """How sure the token of a position is, and the token."""
    key, place = torch.tensor([row_key(s.seed, EXAMPLE)]), torch.tensor([position])
    if s.temperature > 0:
        u = uniform(key, step * PURPOSES + GUMBEL, place, len(z))[0]
        token = int((z.double().exp() / (-u.log()) ** s.temperature).argmax())
    else:
        token = int(z.argmax())
    if s.remasking == "random":
        return float(uniform(key, step * PURPOSES + ORDER, place, 1)), token
    if s.eos == "confidence_eos_eot_inf":
        z[list(model.eos_ids)] = -torch.inf
    return float(torch.softmax(z, -1)[token]), token


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
            expected = published(model, prompt, Published(gen, block, steps, temperature, cfg, remasking))
            canvas = new_canvas([prompt], [EXAMPLE], gen, model.mask_id, 0, seed=9)
            sampler = make_sampler(
                gen, block_length=block, steps=steps, temperature=temperature, cfg_scale=cfg, order=order
            )
            decode(model, canvas, sampler)
            assert canvas.completion_BG[0].tolist() == expected
            assert model.mask_id not in expected


class Rounded(FakeDenoiser):
    """Sure of most tokens, with logits in a dtype, which `logits` widens to float32 as real models do."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        super().__init__(vocabulary=14, mask_id=13, eos_ids=(12, 11), seed=seed)
        self.head *= 3
        self.dtype = dtype

    def full_logits(self, tokens_BL: torch.Tensor, attention_BL: torch.Tensor) -> torch.Tensor:
        return super().full_logits(tokens_BL, attention_BL).to(self.dtype)

    def logits(self, *asked: torch.Tensor) -> torch.Tensor:
        return super().logits(*asked).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_same_tokens_and_ties_as_the_procedure_since_f51cb17(
    dtype: torch.dtype, temperature: float, cfg: float
) -> None:
    others, (gen, block, steps) = 0, (12, 6, 6)
    for seed in range(2):
        model, prompt = Rounded(dtype, seed), [3, 1, 4]
        settings = {"block_length": block, "steps": steps, "temperature": temperature, "cfg_scale": cfg}
        positions = {}
        for confidence in ("raw", "model_dtype"):
            canvas = new_canvas([prompt], [EXAMPLE], gen, model.mask_id, 0, seed=9)
            (trace,) = decode(model, canvas, make_sampler(gen, confidence=confidence, **settings))
            positions[confidence] = trace.position
        expected = published(model, prompt, Published(gen, block, steps, temperature, cfg, "low_confidence", dtype))
        assert canvas.completion_BG[0].tolist() == expected
        others += positions["raw"] != positions["model_dtype"]
    assert others or dtype == torch.float32  # rounding makes ties, and ties go left


@pytest.mark.parametrize("eos", ["confidence_eos_eot_inf", "logits_eos_inf"])
@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_same_tokens_under_the_published_rules_for_end_tokens(eos: str, remasking: str, temperature: float) -> None:
    """confidence_eos_eot_inf takes end tokens out of every softmax that is ranked, so that they come last;
    logits_eos_inf never proposes the end of text, but does the end of a turn."""
    gen, block, steps = 12, 6, 6
    for seed in range(2):
        model = Rounded(torch.float64, seed)
        model.logits = lambda *args, model=model: FakeDenoiser.logits(model, *args)  # type: ignore[method-assign]
        model.place = torch.cat([model.place, torch.ones(256, 1)], 1)  # a constant state, by which ends are raised
        model.embedding = torch.cat([model.embedding, torch.ones(14, 1)], 1)
        model.head = torch.cat([model.head, torch.zeros(1, 14)])
        model.head[-1, list(model.eos_ids)] = 6
        expected = published(model, [3, 1, 4], Published(gen, block, steps, temperature, 0.0, remasking, eos=eos))
        canvas = new_canvas([[3, 1, 4]], [EXAMPLE], gen, model.mask_id, 0, seed=9)
        order = {"low_confidence": "confidence", "random": "random"}[remasking]
        settings = {"block_length": block, "steps": steps, "temperature": temperature, "order": order, "eos": eos}
        decode(model, canvas, make_sampler(gen, **settings))
        assert canvas.completion_BG[0].tolist() == expected
        assert eos == "confidence_eos_eot_inf" or model.eos_ids[0] not in expected


def test_end_tokens_change_the_order_of_others_unless_they_are_out_of_the_softmax() -> None:
    """Of two tokens the less sure one comes first once the end token that doubts the surer one is left out."""
    model = FakeDenoiser(vocabulary=5, mask_id=4, eos_ids=(3,))
    table = torch.tensor([[0.0, 5.0, 0.0, 4.9, -40.0], [4.0, 5.5, 0.0, -9.0, -40.0]], dtype=torch.float64)
    model.full_logits = lambda tokens, _: table.expand(len(tokens), -1, -1)  # type: ignore[method-assign]

    def first(eos: str) -> int:
        canvas = new_canvas([[]], [EXAMPLE], 2, 4, 0, seed=0)
        return decode(model, canvas, make_sampler(2, eos=eos))[0].position[0]

    assert first("suppress") == first("none") == 1
    assert first("confidence_eos_eot_inf") == 0
