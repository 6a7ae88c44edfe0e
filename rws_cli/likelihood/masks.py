"""The masks under which the likelihood of a text is estimated, and the estimate from them.

A masked diffusion model bounds log p(y | prompt) of L tokens by the sum over mask counts l = 1 … L of (1/l) times the mean,
over all masks M of l tokens, of Σ_{i in M} log p(y_i | prompt, y outside M) (LLaDA, arXiv 2502.09992, equation 6). All
estimators here are unbiased. Their random numbers are hashes of (key, draw, position): texts with the same key share them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rws_cli.config.schema import Likelihood
from rws_cli.decoding.noise import uniform


@dataclass(frozen=True)
class Masks:
    """D masks of W tokens, masked_DW. A draw's value is weight_D times the sum of log p of its masked tokens, and the
    estimate is the mean of values. group: successive draws that depend on each other. exact: whether these are all masks,
    so that the mean is the bound itself. size_D: masked tokens."""

    masked_DW: Tensor
    weight_D: Tensor
    group: int = 1
    exact: bool = False

    @property
    def size_D(self) -> Tensor:
        return self.masked_DW.sum(1)

    def estimate(self, log_p_D: Tensor) -> tuple[float, float]:
        """The estimate and its variance, from the sum of log p of each draw's masked tokens, float64.

        Mask counts are spread evenly, so that draws vary less than independent ones: the variance is that of successive
        differences, in the order of mask counts (von Neumann, 1941).
        """
        value_D = torch.where(self.size_D > 0, self.weight_D * log_p_D, 0.0)
        mean = float(value_D.mean())
        if self.exact:
            return mean, 0.0
        by_size_P = self.size_D.view(-1, self.group).amin(1).argsort(stable=True)
        value_P = value_D.view(-1, self.group).mean(1)[by_size_P]
        return mean, float(value_P.diff().square().mean()) / (2 * len(value_P))


def most_masks(width: int, settings: Likelihood) -> int:
    """The most distinct masks that masks_of gives."""
    return min(2**width - 1, settings.draws)


def masks_of(width: int, first: int, key: int, settings: Likelihood) -> Masks:
    """Masks of `width` tokens, the first of which is token number `first` of its text. key: of random numbers."""
    if 2**width - 1 <= settings.draws:
        return all_masks(width)
    estimator, draws = settings.estimator, settings.draws
    group = 1 if estimator == "stratified" else 2
    count = draws // group
    key_N = torch.full((count * width,), key)
    draw_N = torch.arange(count).repeat_interleave(width)
    position_N = torch.arange(first, first + width).repeat(count)
    rank_PW = uniform(key_N, draw_N, position_N, 1).view(count, width).argsort(1).argsort(1)
    sizes = width + 1 if estimator == "coupled" else width
    shift = int(float(uniform(torch.tensor([key]), 0, torch.tensor([first]), 2)[0, 1]) * sizes)
    size_P = (shift + torch.arange(count) * sizes // count) % sizes
    if estimator == "stratified":
        return Masks(rank_PW <= size_P[:, None], width / (size_P + 1.0).double())
    if estimator == "antithetic":  # sizes l and W + 1 − l: the last token of one is the first of the other
        first_PW, second_PW = rank_PW <= size_P[:, None], rank_PW >= size_P[:, None]
    else:  # sizes l and W − l, from 0 to W
        first_PW, second_PW = rank_PW < size_P[:, None], rank_PW >= size_P[:, None]
    masked_DW = torch.stack([first_PW, second_PW], 1).flatten(0, 1)
    return Masks(masked_DW, sizes / masked_DW.sum(1).clamp(min=1).double(), group)


def all_masks(width: int) -> Masks:
    """All masks of at least one of `width` tokens, each weighted by its probability."""
    number_D = torch.arange(1, 2**width)
    masked_DW = (number_D[:, None] >> torch.arange(width)) % 2 == 1
    weight = [len(number_D) / (size * math.comb(width, size)) for size in masked_DW.sum(1).tolist()]
    return Masks(masked_DW, torch.tensor(weight, dtype=torch.float64), exact=True)
