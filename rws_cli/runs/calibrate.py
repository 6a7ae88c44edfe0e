"""Measure the statistics that normalize a reward's scores (`rws calibrate`).

A benchmark is decoded unguided, and the reward scores every intermediate sequence that Reward-Weighted Sampling would
score. Normalized guidance with the same reward, model and benchmark uses the resulting statistics (calibrations.py).
Also measured, by progress: the scores of completions that were masked again at random and completed in one pass.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from rws_cli import __version__, registry
from rws_cli.benchmarks.base import Example
from rws_cli.config.renamed import SCHEMA
from rws_cli.config.schema import Config, Sampler
from rws_cli.decoding.batch import Batch, prompt_of
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prediction import complete
from rws_cli.decoding.protocols import Cache
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import RunError, UsageError
from rws_cli.files import write_json
from rws_cli.models.base import Denoiser
from rws_cli.remasking.none import NoRemasking
from rws_cli.rewards.base import Candidate, ask
from rws_cli.rewards.scorer import Renderer, renderer
from rws_cli.runs.batch_decoder import new_cache, rows_at_once
from rws_cli.runs.calibrations import facts_of, folder_of
from rws_cli.runs.folder import claim_version, point_latest
from rws_cli.runs.manifest import now
from rws_cli.runs.plan import judging_cost
from rws_cli.runs.prepared import load, prepare, sources
from rws_cli.search.none import NoSearch

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TENTHS = 10
"""The levels of progress at which completions are masked again."""
MOST_SCORES = 200
"""Scores stored per tenth of progress, for reward=shuffled to draw from."""


class Recorder:
    """Stands in for a reward scorer: records the candidates that guidance asks for, and scores each 0."""

    statistics = Statistics(0.0, 1.0, 0.0, 1.0)

    def __init__(self, render: Renderer, examples: Sequence[Example]) -> None:
        self.render, self.examples = render, examples
        self.seen: list[Candidate] = []

    def __call__(self, requests: dict[int, tuple[list[int], float, int]]) -> dict[int, float]:
        self.seen += [self.render(self.examples[row], *request) for row, request in requests.items()]
        return dict.fromkeys(requests, 0.0)


def unguided(sampler: Sampler) -> Sampler:
    """The sampler with guidance that asks for scores but always scales by 1."""
    fill = getattr(sampler.guidance, "fill", "argmax")
    no_effect = registry.load("guidance", "rws", "guidance")(kind="rws", strength=0.0, normalize="none", fill=fill)
    return replace(sampler, guidance=no_effect, remasking=NoRemasking(kind="none"), search=NoSearch(kind="none"))


def decode_recorded(
    denoiser: Denoiser,
    examples: Sequence[Example],
    prompts: list[list[int]],
    sampler: Sampler,
    seed: int,
    cache: Cache | None = None,
) -> tuple[Batch, list[Candidate]]:
    """Decode examples as one batch; returns the batch, and every candidate that guidance wanted scored."""
    rows = [prompt_of(ids, seed, example.id) for ids, example in zip(prompts, examples, strict=True)]
    recorder = Recorder(renderer(denoiser, sampler), examples)
    decoder = Decoder(denoiser, rows, sampler, recorder, cache=cache)
    list(decoder.run())
    return decoder.batch, recorder.seen


@torch.inference_mode()
def remask_and_complete(
    denoiser: Denoiser, examples: Sequence[Example], batch: Batch, sampler: Sampler, seed: int
) -> list[Candidate]:
    """Mask decoded completions at random and complete them in one pass, at progress 0, 0.1, …, 0.9.

    Each example's positions are unmasked in one random order, so those unmasked at one level stay so at the next. Unlike
    in a decoding, they are not the most confident ones.
    """
    render = renderer(denoiser, sampler)
    whole_BG, length = batch.completion_BG.clone(), sampler.gen_length
    orders = [random.Random(f"masked {seed} {e.id}").sample(range(length), length) for e in examples]
    rank_BG = torch.tensor(orders, device=whole_BG.device).argsort(-1)
    seen = []
    for tenth in range(TENTHS):
        batch.completion_BG.copy_(whole_BG.masked_fill(rank_BG >= tenth * length // 10, denoiser.mask_id))
        masked_BG = batch.masked_BG
        wanted_BL = torch.zeros_like(batch.attention_BL)
        wanted_BL[:, batch.start :] = masked_BG
        logits_NV = denoiser.logits(batch.tokens_BL, batch.attention_BL, wanted_BL)
        row_N, position_N = masked_BG.nonzero().unbind(1)
        filled_BG = batch.completion_BG.clone()
        filled_BG[masked_BG] = complete(
            logits_NV, sampler.guidance.fill, denoiser.mask_id, batch.key_B[row_N], tenth, position_N
        )
        seen += [render(e, row, tenth / 10, tenth) for e, row in zip(examples, filled_BG.tolist(), strict=True)]
    return seen


def statistics_of(scores: Sequence[float], progress: Sequence[float], source: str) -> dict[str, Any]:
    """The content of a normalization file: the distribution of scores, and a sample of them per tenth of progress."""
    pools = by_tenth(scores, progress)
    draw = random.Random(0)
    return {
        "schema": SCHEMA,
        **describe(scores),
        "source": source,
        "by_progress": [draw.sample(pool, min(MOST_SCORES, len(pool))) for pool in pools],
    }


def by_tenth(scores: Sequence[float], progress: Sequence[float]) -> list[list[float]]:
    """Scores, to four decimals, per tenth of progress."""
    pools: list[list[float]] = [[] for _ in range(10)]
    for score, share in zip(scores, progress, strict=True):
        pools[min(int(share * 10), 9)].append(round(score, 4))
    return pools


def describe(scores: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation, extremes, quantiles (all to four decimals) and number of scores."""
    values = np.asarray(scores)
    return {
        "mean": round(float(values.mean()), 4),
        "std": round(float(values.std(ddof=1)), 4) if len(values) > 1 else 0.0,
        "min": round(float(values.min()), 4),
        "max": round(float(values.max()), 4),
        "quantiles": {str(q): round(float(np.quantile(values, q)), 4) for q in QUANTILES},
        "n": len(values),
    }


def calibrate(config: Config, overrides: list[str]) -> Path:
    """Measure the statistics of config.reward and write them with their provenance; returns the file.

    Raises UsageError as a run would, and for reward=none; RunError if scores are not numbers or do not vary.
    """
    config = replace(config, sampler=unguided(config.sampler))
    prepared = prepare(config)
    if prepared.pairs:
        raise UsageError(
            f"benchmark={config.benchmark.name} has choices, which no reward scores: choose another benchmark."
        )
    components = load(config, prepared)
    if components.reward is None:
        raise UsageError("reward=none has no scores to calibrate: choose a reward.")
    scores: list[float] = []
    progress: list[float] = []
    masked_scores: list[float] = []
    masked_progress: list[float] = []
    size = rows_at_once(config, prepared)
    console = Console(stderr=True)
    for line in judging_cost(config, prepared, more=TENTHS):
        console.print(line, highlight=False, soft_wrap=True)
    examples = [example for example in prepared.examples if not example.follows]
    starts = range(0, len(examples), size)
    for start in track(starts, "calibrating", console=console, transient=True, disable=not console.is_terminal):
        batch = examples[start : start + size]
        prompts = [prepared.prompts[example.id] for example in batch]
        exact = components.denoiser.topology.block_size is not None and config.runtime.cache != "none"
        cache = new_cache(components.denoiser, config.runtime, len(batch)) if exact else None
        decoded, seen = decode_recorded(components.denoiser, batch, prompts, components.sampler, config.seed, cache)
        scores += ask(components.reward, seen).values
        progress += [candidate.progress for candidate in seen]
        again = remask_and_complete(components.denoiser, batch, decoded, config.sampler, config.seed)
        masked_scores += ask(components.reward, again).values
        masked_progress += [candidate.progress for candidate in again]
    if np.ptp(scores) == 0:
        raise RunError(
            f"reward={config.reward.name} gave every candidate the same score, so there is nothing to normalize: check the reward."
        )
    source = (
        f"{len(examples)} examples of {config.benchmark.name}, decoded by {config.model.name} "
        f"with {config.sampler.name}, unguided; every step counts once."
    )
    folder = claim_version(folder_of(config))
    facts = facts_of(config, prepared.benchmark, prepared.examples, components.reward)
    provenance = {"rws": __version__, "at": now(), "overrides": overrides, "sampler": asdict(config.sampler),
                  "sources": sources(config, prepared, components)}  # fmt: skip
    along = [describe(pool) if pool else None for pool in by_tenth(scores, progress)]
    masked = [describe(pool) for pool in by_tenth(masked_scores, masked_progress)]
    write_json(
        folder / "normalization.json",
        statistics_of(scores, progress, source)
        | {"decodings_by_progress": along, "masked_by_progress": masked, "calibrated": facts, "provenance": provenance},
    )
    point_latest(folder)
    return folder / "normalization.json"
