"""Of several sets of positions, that which leaves the model least uncertain of the rest (Info-Gain, 2602.18176)"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import ACTION
from rws_cli.decoding.step import Ahead, Branches, Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Schedule, best


@part
class InfoGain(Schedule):
    """A step's quota is that of the base schedule, and so is its first action: the best positions. Further actions take as many
    positions, drawn without replacement by softmax(p / position_temperature), p the probability of a token that is drawn again
    for each action. One pass computes the canvas after each action. The action with the highest −weight·Σ H(its positions) −
    mean H(the masks that it leaves in the completion) is taken, where H is the entropy of a position. A step does not look ahead
    where its quota fills the block, or where tokens have a probability ≥ threshold: it commits these, at most the quota. A
    block goes on until it has no masks."""

    actions: int = setting("sets of positions that a step compares", 8, min=2)
    position_temperature: float = setting("temperature of the draws of positions", 0.1, above=0.0)
    threshold: float | None = setting(
        "probability from which tokens are committed without lookahead; null: never", 0.8, above=0.0, max=1.0
    )
    weight: float = setting("weight of the entropy of an action's own positions; 0: LookUM", 1.0, min=0.0)

    family = "lookahead"
    refills = True
    draws = True
    caches = ()
    needs_all_log_probs = True
    not_drafted = "it chooses among canvases that its steps compute ahead"

    def conflicts(self, config: Any) -> Iterator[str]:
        if (eos := config.sampler.eos) in ("suppress", "confidence_eos_eot_inf"):
            yield (
                f"sampler.schedule.kind={self.kind} draws positions by probabilities that sampler.eos={eos} does not change: "
                "set sampler.eos=none."
            )

    @property
    def lookahead(self) -> int:
        return self.actions

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        self.shares, self.tempered = self.steps, sampler.temperature > 0
        if self.threshold is not None:
            self.steps = sampler.block_length

    def extra_passes(self, steps: int) -> int:
        return 0

    def count(self, step: Step) -> Tensor:
        return self.quota(step, self.shares).clamp(min=1)

    def ended(self, step: Step) -> Tensor:
        return ~step.masked_BG.any(-1)

    def features(self, log_p_nV: Tensor) -> Tensor:
        """Entropy, and the likeliest token with its log-probability."""
        top_n, token_n = log_p_nV.max(-1)
        return torch.stack([torch.special.entr(log_p_nV.exp()).sum(-1), top_n, token_n.double()], -1)

    def log_p(self, step: Step) -> Tensor:
        """The log-probability of each token of each action, (B, K, G)."""
        return step.memory.get("log_p", 0.0, self.actions, step.tokens_BG.shape[1])

    def branch(self, ranking: Ranking, step: Step) -> Branches:
        open_BG, count_B = ranking.open_BG, self.count(step)
        top_BG, top_token_BG = (ranking.spread(ranking.features_N[:, n], 0.0) for n in (1, 2))
        sure_BG = open_BG & (top_BG >= math.log(self.threshold or math.inf)) & (top_token_BG != step.mask_id)
        fills_B = open_BG.sum(-1) <= count_B
        bypasses_B = sure_BG.any(-1) & ~fills_B
        surest_BG = best(top_BG.masked_fill(~sure_BG, -torch.inf), count_B)
        bypass_BG = bypasses_B[:, None]
        chosen = [torch.where(bypass_BG, surest_BG, best(ranking.score_BG, count_B))]
        tokens = [torch.where(bypass_BG, top_token_BG.long(), ranking.token_BG)]
        log_p = [torch.where(bypass_BG, top_BG, ranking.raw_BG)]
        for number in range(1, self.actions):
            token_BG, log_p_BG = ranking.token_BG, ranking.raw_BG
            if self.tempered and ranking.redraw:
                token_BG, log_p_BG = ranking.redraw(number)
            noise_BG = -(-step.chance(ACTION + number).log()).log()
            score_BG = (log_p_BG.exp() / self.position_temperature + noise_BG).masked_fill(~open_BG, -torch.inf)
            chosen.append(best(score_BG, count_B))
            tokens.append(token_BG)
            log_p.append(log_p_BG)
        chosen_BKG = torch.stack(chosen, 1)
        self.log_p(step).copy_(torch.stack(log_p, 1))
        same_BKK = (chosen_BKG[:, :, None] == chosen_BKG[:, None]).all(-1)
        repeated_BK = same_BKK.tril(-1).any(-1)  # of equal sets, the first one counts
        looks_B = ~fills_B & ~bypasses_B & ~repeated_BK[:, 1:].all(-1)
        computed_BK = looks_B[:, None] & ~repeated_BK
        wanted_BKG = (step.all_masked_BG[:, None] & ~chosen_BKG) & computed_BK[..., None]
        return Branches(torch.where(chosen_BKG, torch.stack(tokens, 1), step.tokens_BG[:, None]), wanted_BKG)

    def decide(self, ranking: Ranking, ahead: Ahead, step: Step) -> tuple[Ranking, Tensor]:
        chosen_BKG = (ahead.completion_BKG != step.tokens_BG[:, None]) & ranking.open_BG[:, None]
        entropy_BG = ranking.spread(ranking.features_N[:, 0], 0.0)
        cost_BK = (entropy_BG[:, None] * chosen_BKG).sum(-1)
        left_BK = ahead.wanted_BKG.sum(-1)
        uncertainty_BK = (ahead.features_BKGF[..., 0] * ahead.wanted_BKG).sum(-1) / left_BK.clamp(min=1)
        score_BK = (-self.weight * cost_BK - uncertainty_BK).masked_fill(left_BK == 0, -torch.inf)
        winner_B = score_BK.argsort(dim=-1, descending=True, stable=True)[:, 0]
        chosen_BG, token_BG, log_p_BG = (
            value_BKG[torch.arange(len(winner_B), device=winner_B.device), winner_B]
            for value_BKG in (chosen_BKG, ahead.completion_BKG, self.log_p(step))
        )
        token_BG = torch.where(chosen_BG, token_BG, ranking.token_BG)
        return replace(ranking, token_BG=token_BG, raw_BG=torch.where(chosen_BG, log_p_BG, ranking.raw_BG)), chosen_BG
