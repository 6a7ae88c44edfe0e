"""Logits moved away from those without the least certain committed tokens (A-CFG, 2505.20199)"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.prediction import log_p_of
from rws_cli.guidance.base import Guidance
from rws_cli.part import part, setting
from rws_cli.schedules.base import best


@part
class ACfg(Guidance):
    """Adaptive classifier-free guidance: z = z_u + (w + 1)(z_c − z_u), where z_u comes from a second pass in which ⌈ρn⌉ of the
    n committed tokens are masked: those at the positions where the highest probability under z_c is lowest. The prompt and
    fixed tokens stay."""

    scale: float = setting("w, the guidance scale", 0.5, min=0.0)
    share: float = setting("ρ, the share of the committed tokens that the second pass masks", 0.7, min=0.0, max=1.0)

    passes = 2
    caches = ()

    def conflicts(self, config: Any) -> Iterator[str]:
        s, named = config.sampler, f"sampler.guidance.kind={self.kind}"
        if s.cfg_scale > 0:
            yield f"{named} has a scale of its own: set sampler.cfg_scale=0 and, for another scale, sampler.guidance.scale."
        if s.schedule.shadow:
            yield f"{named} does not work with sampler.schedule.kind={s.schedule.kind}, whose passes read a shadow of the block."
        if config.model.topology.block_size is not None:
            yield f"{named} needs a model whose tokens attend to all others, not model.kind={config.model.kind}."

    def hides(self, logits_NV: Tensor, committed_RC: Tensor) -> Tensor:
        """The tokens (R, C) that the second pass masks. logits_NV: of all R·C positions, in row-major order."""
        log_p_RC = log_p_of(logits_NV, logits_NV.argmax(-1)).view(committed_RC.shape)
        count_R = (self.share * committed_RC.sum(-1).double()).ceil().long()
        return best((-log_p_RC).masked_fill(~committed_RC, -torch.inf), count_R)
