"""Keys and values kept between steps, against a slow forward pass that keeps them in lists."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dream_files import save_dream
from reference import rms_norm, rotate
from support import decode, llada_config, llada_weights, make_sampler, make_settings, new_canvas, new_rows, save_llada
from torch import Tensor

from rws_cli.config.schema import Sampler
from rws_cli.decoding.batch import Prompt
from rws_cli.decoding.cache import BlockCache
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.record import Cost
from rws_cli.decoding.statistics import Statistics
from rws_cli.guidance.rws import Rws
from rws_cli.models.base import Denoiser
from rws_cli.schedules.threshold import Threshold

PROMPTS = [[8, 9, 10], [11, 12, 13, 14, 15, 16, 17], [9, 8, 20, 21]]
GEN, BLOCK = 12, 4


@pytest.fixture(scope="module")
def denoisers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Denoiser]:
    config = llada_config()
    llada = save_llada(tmp_path_factory.mktemp("llada"), config, llada_weights(config, seed=5))
    dream = save_dream(tmp_path_factory.mktemp("dream"))
    return {kind: make_settings(kind, path).load() for kind, path in (("llada", llada), ("dream", dream))}


def run(
    denoiser: Denoiser,
    prompts: list[list[int]],
    sampler: Sampler,
    cache: tuple[str, int | None] | None = None,
    **rest: Any,
) -> tuple[list[list[int]], list[Cost]]:
    names, costs = [str(prompt) for prompt in prompts], [Cost() for _ in prompts]
    canvas = new_canvas(prompts, names, GEN, denoiser.mask_id, denoiser.pad_id, seed=1)
    kept = BlockCache(denoiser, *cache, len(prompts)) if cache else None
    decode(denoiser, canvas, sampler, costs=costs, cache=kept, **rest)
    return canvas.completion_BG.tolist(), costs


# --- a slow forward pass that keeps keys and values -------------------------------------------------------------------


def slow_pass(x: list[int], at: list[int], w: dict[str, Tensor], config: dict, kept: list[dict[int, tuple]]) -> Tensor:
    """Logits (len(at), V) of the positions `at` of one sequence, whose keys and values go among those kept, by layer and
    position."""
    heads, eps = config["n_heads"], config["rms_norm_eps"]
    h = w["wte.weight"][torch.tensor([x[i] for i in at])]
    for n in range(config["n_layers"]):
        block = {k.removeprefix(f"blocks.{n}."): v for k, v in w.items() if k.startswith(f"blocks.{n}.")}
        y = rms_norm(h, block["attn_norm.weight"], eps)
        q, k, v = (y @ block[f"{name}_proj.weight"].T for name in "qkv")
        q, k = (
            rotate(t.view(len(at), heads, -1).transpose(0, 1), config["rope_theta"], at).transpose(0, 1) for t in (q, k)
        )
        for m, i in enumerate(at):
            kept[n][i] = (k[m], v[m].view(heads, -1))
        out = []
        for m in range(len(at)):
            per_head = []
            for head in range(heads):
                keys = torch.stack([kept[n][i][0][head] for i in range(len(x))])
                values = torch.stack([kept[n][i][1][head] for i in range(len(x))])
                p = torch.softmax(keys @ q[m, head] / math.sqrt(keys.shape[-1]), -1)
                per_head.append(p @ values)
            out.append(torch.cat(per_head))
        h = h + torch.stack(out) @ block["attn_out.weight"].T
        y = rms_norm(h, block["ff_norm.weight"], eps)
        gate = y @ block["ff_proj.weight"].T
        h = h + (gate * torch.sigmoid(gate) * (y @ block["up_proj.weight"].T)) @ block["ff_out.weight"].T
    return rms_norm(h, w["ln_f.weight"], eps) @ w["ff_out.weight"].T


def slow_decode(prompt: list[int], kind: str, refresh: int | None, order: str) -> list[int]:
    """One token a step, block by block."""
    config = llada_config()
    w = {name.removeprefix("model.transformer."): v for name, v in llada_weights(config, seed=5).items()}
    mask = config["mask_token_id"]
    x = prompt + [mask] * GEN
    kept: list[dict[int, tuple]] = [{} for _ in range(config["n_layers"])]
    for begin in range(len(prompt), len(x), BLOCK):
        for step in range(BLOCK):
            at = list(range(begin, len(x) if kind == "prefix" else begin + BLOCK))
            if step == 0 or (refresh and step % refresh == 0):
                at = list(range(len(x)))
            logits = dict(zip(at, slow_pass(x, at, w, config, kept).double(), strict=True))
            best = None
            for i in range(begin, begin + BLOCK):
                if x[i] != mask:
                    continue
                p = logits[i].softmax(-1)
                allowed = logits[i].clone()
                allowed[mask] = -math.inf
                token = int(allowed.argmax())
                score = {
                    "confidence": float(p[token]),
                    "entropy": float((p * p.log()).sum()),
                    "left_to_right": -i,
                }[order]
                if best is None or score > best[0]:
                    best = (score, i, token)
            assert best
            x[best[1]] = best[2]
    return x[len(prompt) :]


@pytest.mark.parametrize(("order", "refresh"), [("confidence", None), ("entropy", 2), ("left_to_right", 2)])
@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_same_tokens_as_a_slow_cache(
    denoisers: dict[str, Denoiser], kind: str, refresh: int | None, order: str
) -> None:
    sampler = make_sampler(GEN, block_length=BLOCK, order=order)
    found, costs = run(denoisers["llada"], PROMPTS, sampler, (kind, refresh))
    assert found == [slow_decode(prompt, kind, refresh, order) for prompt in PROMPTS]
    for prompt, cost in zip(PROMPTS, costs, strict=True):
        whole = len(prompt) + GEN
        windows = [GEN, GEN - BLOCK, GEN - 2 * BLOCK] if kind == "prefix" else [BLOCK] * 3
        full = 2 if refresh else 1
        assert cost.mdm_tokens == sum(full * whole + (BLOCK - full) * window for window in windows)
        assert cost.mdm_passes == GEN


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_padding_behind_a_shorter_completion_costs_nothing(denoisers: dict[str, Denoiser], kind: str) -> None:
    prompts = [Prompt(PROMPTS[0], 0, length=2 * BLOCK), Prompt(PROMPTS[1], 1)]
    cache = BlockCache(denoisers["llada"], kind, None, 2)
    decoder = Decoder(denoisers["llada"], prompts, make_sampler(GEN, block_length=BLOCK), cache=cache)
    costs = {one.number: one.cost.mdm_tokens for some in decoder.run() for one in some}
    for number, prompt in enumerate(prompts):
        length = prompt.length or GEN
        windows = range(length, 0, -BLOCK) if kind == "prefix" else [BLOCK] * (length // BLOCK)
        assert costs[number] == sum(len(prompt.ids) + length + (BLOCK - 1) * window for window in windows)


# --- what must hold for every family ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_what_is_kept_of_the_same_tokens_is_exact(denoisers: dict[str, Denoiser], family: str, kind: str) -> None:
    """Without a token committed in between, a window's logits are those of a pass through everything."""
    denoiser = denoisers[family]
    batch = new_rows(PROMPTS, list("abc"), GEN, denoiser.mask_id, denoiser.pad_id, BLOCK)
    batch.completion_BG[:, :BLOCK] = torch.tensor([8, 9, 10, 11])
    batch.inside_BG = batch.block_BG == 1
    wanted_BG = batch.masked_BG & batch.inside_BG
    cache, row_R = BlockCache(denoiser, kind, None, len(PROMPTS)), torch.arange(len(PROMPTS))
    wanted = wanted_BG.sum(1).tolist()
    wanted_BL = torch.zeros_like(batch.attention_BL)
    wanted_BL[:, batch.start :] = wanted_BG
    with torch.inference_mode():
        exact = denoiser.logits(batch.tokens_BL, batch.attention_BL, wanted_BL)
        first, _ = cache.logits(batch, row_R, wanted_BG, wanted)
        again, tokens = cache.logits(batch, row_R, wanted_BG, wanted)
        some = [2, 0]
        swapped, _ = cache.logits(batch, row_R[some], wanted_BG[some], [wanted[row] for row in some])
    torch.testing.assert_close(first, exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, exact, atol=1e-4, rtol=1e-4)
    assert tokens == [(GEN - BLOCK if kind == "prefix" else BLOCK) + (family == "dream")] * len(PROMPTS)
    parts = exact.view(len(PROMPTS), BLOCK, -1)
    torch.testing.assert_close(swapped.view(2, BLOCK, -1), parts[some], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize(
    "schedule", [{}, {"schedule": Threshold(kind="threshold", threshold=0.3)}, {"order": "random"}]
)
def test_rows_do_not_depend_on_their_batch_and_a_refresh_each_step_is_exact(
    denoisers: dict[str, Denoiser], family: str, kind: str, schedule: dict
) -> None:
    denoiser, sampler = denoisers[family], make_sampler(GEN, block_length=BLOCK, **schedule)
    exact, _ = run(denoiser, PROMPTS, sampler)
    assert run(denoiser, PROMPTS, sampler, (kind, 1))[0] == exact
    together, _ = run(denoiser, PROMPTS, sampler, (kind, None))
    assert together == [run(denoiser, [prompt], sampler, (kind, None))[0][0] for prompt in PROMPTS]
    assert run(denoiser, PROMPTS, sampler, (kind, None), most_rows=2)[0] == together


class Watcher:
    """A scorer that keeps what it is shown."""

    statistics = Statistics(0.0, 1.0, -1.0, 1.0)

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        self.shown.append(tokens_BG.clone())
        return [0.5] * len(rows)


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_a_reward_is_shown_no_mask_though_the_cache_looks_at_a_window(
    denoisers: dict[str, Denoiser], kind: str
) -> None:
    """Behind the block, where a dual cache gives no logits, stands what was filled in when the block began."""
    denoiser, watcher = denoisers["llada"], Watcher()
    guidance = Rws(
        kind="rws",
        strength=1.0,
        form="linear",
        normalize="none",
        fill="argmax",
        target="all",
        reward_every=1,
        floor=1e-3,
    )
    run(denoiser, PROMPTS, make_sampler(GEN, block_length=BLOCK, guidance=guidance), (kind, None), scorer=watcher)
    assert len(watcher.shown) == GEN
    assert not any(bool((shown == denoiser.mask_id).any()) for shown in watcher.shown)
    if kind == "dual":
        for block in range(0, GEN, BLOCK):
            behind = [shown[:, block + BLOCK :] for shown in watcher.shown[block : block + BLOCK]]
            assert all(torch.equal(one, behind[0]) for one in behind)
