"""Logits raised at tokens that were the likeliest at earlier steps (CreditDecoding, 2510.06133)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import likeliest, log_p_of
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.guidance.base import Guidance, Guided
from rws_cli.part import part, setting


@part
class Credit(Guidance):
    """Each mask of the open block has a credit C(v) for each token v, 0 when the block begins. At each step all its credits
    are multiplied by `decay`, and that of its likeliest token grows by p^power, p being the token's probability. Then
    weight·log(1 + C(v)) is added to the logits.

    A mask has credits for at most as many tokens as its block has had steps, which are at most the G positions: the memory
    holds G tokens and their credits for each position, not V credits."""

    weight: float = setting("α, the weight of credits in the logits", 0.7, min=0.0)
    decay: float = setting("β, the share of a credit that is left after a step", 0.8, min=0.0, max=1.0)
    power: float = setting("γ, the power of the probability that a credit grows by", 0.2, min=0.0)

    def conflicts(self, config: Any) -> Iterator[str]:
        kind = config.sampler.schedule.kind
        if config.sampler.schedule.remasks:
            yield (
                f"sampler.guidance.kind={self.kind} does not work with sampler.schedule.kind={kind}: credits would restore the "
                "tokens that it remasks."
            )

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        place, logits_NV, length = (predicted.row_N, predicted.position_N), predicted.logits_NV, step.masked_BG.shape[1]
        token_BGK = step.memory.get("guidance.token", -1, length, length, dtype=torch.int64)
        credit_BGK = step.memory.get("guidance.credit", 0.0, length, length)
        self.forget_blocks(token_BGK, credit_BGK, step)
        top_N = likeliest(logits_NV, step.mask_id) if predicted.top_N is None else predicted.top_N
        token_NK, credit_NK = token_BGK[place], credit_BGK[place] * self.decay
        same_NK = token_NK == top_N[:, None]
        slot_N = torch.where(same_NK.any(1), first(same_NK), first(token_NK < 0))[:, None]
        grown_N1 = credit_NK.gather(1, slot_N) + (self.power * log_p_of(logits_NV, top_N)).exp()[:, None]
        token_NK, credit_NK = token_NK.scatter(1, slot_N, top_N[:, None]), credit_NK.scatter(1, slot_N, grown_N1)
        # There may also be logits of other blocks and of committed tokens.
        is_mask_N1 = step.masked_BG[place][:, None]
        token_BGK[place] = torch.where(is_mask_N1, token_NK, token_BGK[place])
        credit_BGK[place] = torch.where(is_mask_N1, credit_NK, credit_BGK[place])
        is_empty_NK = token_NK < 0  # an empty slot stands for the likeliest token, too
        token_NK = torch.where(is_empty_NK, top_N[:, None], token_NK)
        gain_NK = self.weight * torch.where(is_empty_NK, grown_N1, credit_NK).log1p() * is_mask_N1
        raised_NK = logits_NV.gather(1, token_NK) + gain_NK.to(logits_NV.dtype)
        return Guided(logits_NV.scatter(1, token_NK, raised_NK))

    def forget_blocks(self, token_BGK: Tensor, credit_BGK: Tensor, step: Step) -> None:
        """Reset the credits of rows that have begun a block, or one again, since their last step."""
        first_B, last_B = step.number_B - step.index_B, step.memory.get("guidance.first", -1, dtype=torch.int64)
        begins_B11 = (first_B != last_B)[:, None, None]
        token_BGK.masked_fill_(begins_B11, -1)
        credit_BGK.masked_fill_(begins_B11, 0.0)
        last_B.copy_(first_B)


def first(is_NK: Tensor) -> Tensor:
    """The first column that is true, (N,); 0 if none is."""
    return is_NK.to(torch.int8).argmax(1)
