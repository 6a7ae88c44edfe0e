"""Every sure token, and less sure ones that do not attend to each other (DAWN, 2602.06953)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@part
class Dawn(Adaptive):
    """Position i depends on j if its attention to j, the mean over heads and the last layers, is ≥ edge; a j whose mean
    incoming attention is > sink is left out. A step commits every token with probability ≥ threshold; every one with
    probability ≥ induced that depends on a token of prompt or completion where the model is sure (≥ threshold); and, of the
    others with probability ≥ low, the best ones of which none depends on another. Without any, it commits the best token.
    Tokens that depend on one that is both sure and induced wait."""

    threshold: float = setting("probability at which a token is sure", 0.9, above=0.0, max=1.0)
    induced: float = setting("lowest probability of a token that depends on a sure one", 0.7, above=0.0, max=1.0)
    low: float = setting("lowest probability of a token that depends on no other", 0.75, above=0.0, max=1.0)
    edge: float = setting("lowest attention that counts as a dependency", 0.07, above=0.0, max=1.0)
    sink: float = setting("mean incoming attention above which a position is a sink", 0.01, min=0.0, max=1.0)
    layers: int = setting("layers, from the last, whose attention is averaged", 4, min=1)

    caches = ()
    not_drafted = "its steps also read attention weights"

    @property
    def attention_layers(self) -> int:
        return self.layers

    def conflicts(self, config: Any) -> Iterator[str]:
        named, m = f"sampler.schedule.kind={self.kind} reads attention weights", config.model
        if m.topology.block_size is not None or not m.native:
            yield f"{named}, and model.kind={m.kind} gives none of tokens that all attend to each other: choose another model."
        if m.attention != "eager":
            yield f"{named}, which model.attention={m.attention} does not return: set model.attention=eager."
        if config.runtime.compile:
            yield f"{named}, which a compiled model does not return: set runtime.compile=false."
        if config.runtime.backend == "tensor_parallel":
            yield f"{named} of all heads, and runtime.backend=tensor_parallel divides them: choose another backend."
        if config.sampler.passes_per_step > 1:
            yield f"{named} of one pass, so it does not work with classifier-free guidance: set sampler.cfg_scale=0."

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        self.width = sampler.block_length

    def attend(
        self, weights_RLL: Tensor, log_p_RL: Tensor, decoded_RL: Tensor, seen_RL: Tensor, start: int
    ) -> tuple[Tensor, Tensor]:
        incoming_RL = (weights_RLL * seen_RL[:, :, None]).sum(1) / seen_RL.sum(1, keepdim=True)
        left_out_RLL = (incoming_RL > self.sink)[:, None, :] | torch.eye(
            weights_RLL.shape[1], dtype=torch.bool, device=weights_RLL.device
        )
        depends_RLL = (weights_RLL >= self.edge) & ~left_out_RLL
        anchor_RL = decoded_RL & (log_p_RL >= math.log(self.threshold))
        is_anchored_RL = (depends_RLL & anchor_RL[:, None, :]).any(-1)
        return depends_RLL[:, start:, start:], is_anchored_RL[:, start:]

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        length = step.masked_BG.shape[1]
        depends_BGG = step.memory.get("attention.depends", False, length, length, dtype=torch.bool)
        is_anchored_BG = step.memory.get("attention.anchored", False, length, dtype=torch.bool)
        log_p_BG, score_BG = ranking.log_p_BG, ranking.score_BG
        sure_BG = log_p_BG >= math.log(self.threshold)
        induced_BG = is_anchored_BG & (log_p_BG >= math.log(self.induced))
        waits_BG = (depends_BGG & (sure_BG & induced_BG)[:, None, :]).any(-1)
        others_BG = (log_p_BG >= math.log(self.low)) & ~sure_BG & ~induced_BG & ~waits_BG
        conflict_BGG = depends_BGG | depends_BGG.transpose(1, 2)
        chosen_BG = sure_BG | induced_BG | independent(others_BG, conflict_BGG, score_BG, self.width)
        return torch.where(chosen_BG.any(-1, keepdim=True), chosen_BG, one(score_BG))


def independent(some_BG: Tensor, conflict_BGG: Tensor, score_BG: Tensor, most: int) -> Tensor:
    """Of the positions some_BG, the best one, then the best one without a conflict with those chosen, and so on. most: an upper
    limit of their number in a row, which are the highest scores of all."""
    order_BG = score_BG.argsort(dim=-1, descending=True, stable=True)
    closed_BG, chosen_BG = ~some_BG, torch.zeros_like(some_BG)
    for n in range(most):
        place_B1 = order_BG[:, n, None]
        takes_B1 = ~closed_BG.gather(1, place_B1)
        chosen_BG = chosen_BG.scatter(1, place_B1, takes_B1)
        near_BG = conflict_BGG.gather(1, place_B1[:, :, None].expand(-1, -1, some_BG.shape[1]))[:, 0]
        closed_BG = closed_BG | (near_BG & takes_B1)
    return chosen_BG
