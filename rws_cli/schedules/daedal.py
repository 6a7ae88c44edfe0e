"""A completion that grows where the model is unsure, until it is sure of its end (DAEDAL, 2508.00819)"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.batch import Insertion
from rws_cli.decoding.step import Ranking, Step
from rws_cli.part import part, setting
from rws_cli.schedules.base import Adaptive, one


@part
class Daedal(Adaptive):
    """The end confidence is the sum of the probabilities of the last `checked` positions whose likeliest token is the end
    token, divided by `checked`. First the completion of sampler.start_length masks gets `masks` more at its end, pass by pass,
    while the end confidence is below start_enough; then checked/2 end tokens follow it. After that a step commits every
    token of the block with probability > threshold, at least the best one. If the end confidence is below `enough`, the
    least probable other mask of the block becomes `masks` masks if its probability is below `unsure`.
    sampler.gen_length is the greatest length."""

    threshold: float = setting("probability above which a token is committed", 0.9, min=0.0, max=1.0)
    unsure: float = setting("probability below which a mask becomes several", 0.1, min=0.0, max=1.0)
    masks: int = setting("masks that it becomes, and that are added at the start each time", 8, min=2)
    start_enough: float = setting("end confidence at which the length at the start is enough", 0.5, min=0.0, max=1.0)
    enough: float = setting("end confidence at which no mask becomes several", 0.9, min=0.0, max=1.0)
    checked: int = setting("end tokens that the end confidence reads, from the last", 32, min=1)

    grows = True
    not_drafted = "it also inserts masks"
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        s, named = config.sampler, f"sampler.schedule.kind={self.kind}"
        if s.start_length is None:
            yield f"{named} starts with a short completion: set sampler.start_length, for example to 64."
        for name in ("search", "remasking"):
            if (kind := getattr(s, name).kind) != "none":
                yield f"{named} does not work with sampler.{name}.kind={kind}: set sampler.{name}.kind=none."
        if s.eos not in ("none", "suppress"):
            yield f"{named} reads how probable the end is, so it does not work with sampler.eos={s.eos}: set sampler.eos=none."

    def prepare(self, sampler: Any) -> None:
        super().prepare(sampler)
        start = sampler.start_length or sampler.gen_length
        self.first_steps = 1 - (start - sampler.gen_length) // self.masks

    def started(self, step: Step) -> Tensor:
        """1 in rows whose length at the start is settled, (B,)."""
        return step.memory.get("started", 0)

    def feature_positions(self, step: Step, open_BG: Tensor) -> Tensor:
        return step.free_BG & open_BG.any(-1, keepdim=True)

    def choose(self, ranking: Ranking, step: Step) -> Tensor:
        threshold = math.log(self.threshold) if self.threshold else -math.inf
        chosen_BG = (ranking.log_p_BG > threshold) | one(ranking.score_BG)
        return chosen_BG & self.started(step).bool()[:, None]

    def end_confidence(self, ranking: Ranking, step: Step) -> Tensor:
        """(B,)"""
        is_end_BG = ranking.ranked_BG & (ranking.token_BG == step.end_id)
        is_last_BG = is_end_BG & (is_end_BG.flip(1).cumsum(1).flip(1) <= self.checked)
        return (ranking.raw_BG.exp() * is_last_BG).sum(1) / self.checked

    def insertion(self, ranking: Ranking, chosen_BG: Tensor, step: Step) -> Insertion:
        length_B, confidence_B = step.length_B, self.end_confidence(ranking, step)
        started_B, active_B = self.started(step), ranking.open_BG.any(1)
        before_B = active_B & (started_B == 0)
        short_B = before_B & (confidence_B < self.start_enough) & (length_B < step.free_BG.shape[1])
        settled_B = before_B & ~short_B
        unsure_BG = ranking.open_BG & ~chosen_BG & (ranking.raw_BG.exp() < self.unsure)
        unsure_BG = unsure_BG & (~before_B & (confidence_B < self.enough))[:, None]
        split_BG = one((-ranking.raw_BG).masked_fill(~unsure_BG, -torch.inf))
        started_B.masked_fill_(settled_B, 1)
        position_B = torch.where(split_BG.any(1), split_BG.to(torch.int8).argmax(1) + 1, length_B)
        count_B = short_B * self.masks + settled_B * (self.checked // 2) + split_BG.any(1) * (self.masks - 1)
        return Insertion(position_B, count_B, settled_B)
