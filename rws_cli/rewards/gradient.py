"""EntRGi (arXiv 2602.05000): the reward's gradient moves the logits, through embeddings mixed by entropy.

At each step the logits z of the masked positions take `steps` steps of Adam against −r. The reward model reads, at a
masked position, ẽ + sg(w(ē − ẽ)): ẽ = Σ_v q_v E(v) with q = softmax(z / τ) over the tokens that both vocabularies have,
ē the embedding of a token drawn from softmax(z / τ) cut to `top_p`, anew at each step of Adam, and w = H(softmax(z)) / log V.
So what the model is sure of is read softly, what it is unsure of as a token, and gradients always flow through ẽ. The
order of positions reads the logits before they were moved (loop.py).

The reward model has a vocabulary of its own: a token of the denoiser stands for the token that is written the same there,
and one without such a token takes no part in the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rws_cli.benchmarks.base import Example
from rws_cli.config.schema import EntrgiGuidance
from rws_cli.decoding.canvas import Canvas
from rws_cli.decoding.noise import mix
from rws_cli.decoding.prediction import FILL, propose, temper
from rws_cli.decoding.record import Cost, charge
from rws_cli.errors import RunError, UsageError
from rws_cli.models.chat import render
from rws_cli.rewards.classifier import Classifier

PLACEHOLDER = "\u241f"  # stands where the answer goes; no prompt has it
GRADIENT_COST = 3
"""Tokens that one of a gradient step counts for: the pass back is twice the work of the pass forth."""

ADAM = 1 << 43
"""What is added to keys for random numbers of a further step of Adam."""

LEAST_SHARED = 0.5
"""Of the denoiser's vocabulary, the share that must have a counterpart."""


def token_map(denoiser: dict[str, int], reward: dict[str, int], size: int) -> Tensor:
    """For each of `size` tokens of the denoiser the reward model's token that is written the same, −1 if none is.

    Raises UsageError if fewer than half have one: gradients through such a map would mean little.
    """
    found = torch.full((size,), -1, dtype=torch.int64)
    for text, token in denoiser.items():
        if token < size and text in reward:
            found[token] = reward[text]
    if (share := float((found >= 0).double().mean())) < LEAST_SHARED:
        raise UsageError(
            f"sampler.guidance.kind=entrgi needs a reward model that shares the model's vocabulary; only {share:.0%} of "
            "its tokens are written the same there: choose another reward."
        )
    return found


class Mover:
    """Moves the logits of one batch (decoding.protocols.Mover); map_V: what token_map gave."""

    def __init__(
        self,
        settings: EntrgiGuidance,
        reward: Classifier,
        map_V: Tensor,
        eos_ids: tuple[int, ...],
        examples: Sequence[Example],
        costs: list[Cost],
        top_p: float,
    ) -> None:
        self.settings, self.reward, self.map_V, self.eos_ids = settings, reward, map_V, eos_ids
        self.examples, self.costs, self.top_p = examples, costs, top_p
        self.embedding = reward.model.get_input_embeddings().weight
        self.around = [self._around(example) for example in examples]

    def _around(self, example: Example) -> tuple[list[int], list[int]]:
        """The reward model's tokens before and after an answer."""
        reward = self.reward
        text = render(reward.tokenizer, example.messages(PLACEHOLDER), reward.at, reward.template, RunError)
        before, _, after = text.partition(PLACEHOLDER)
        before_ids, after_ids = (self.reward.tokenizer(t, add_special_tokens=False).input_ids for t in (before, after))
        return before_ids, after_ids

    def __call__(self, rows: list[int], canvas: Canvas, logits_NV: Tensor, wanted_BG: Tensor, step: int) -> Tensor:
        row_N, position_N = wanted_BG.nonzero().unbind(1)
        key_N, tau = canvas.key_B[row_N], self.settings.temperature
        listed = canvas.response_BG.tolist()
        with charge(self.costs, rows, "reward_seconds"), torch.inference_mode(False), torch.enable_grad():
            z_NV = logits_NV.clone().requires_grad_()
            adam = torch.optim.Adam([z_NV], lr=self.settings.rate)
            for number in range(self.settings.steps):
                adam.zero_grad()
                keys_N = key_N if number == 0 else mix(key_N + number * ADAM)
                drawn_NV = temper(z_NV.detach().double(), tau, self.top_p)
                token_N = propose(drawn_NV, tau, canvas.mask_id, keys_N, step, position_N, FILL)
                soft_NE = self.mixture(z_NV, token_N)
                score, tokens = self.score(rows, listed, soft_NE, row_N.tolist(), position_N.tolist())
                if score.requires_grad:  # not where all masks stand behind an end token
                    (-score.sum()).backward()
                adam.step()
                for row, count in zip(rows, tokens, strict=True):
                    self.costs[row].reward_calls += 1
                    self.costs[row].reward_tokens += GRADIENT_COST * count
        return z_NV.detach()

    def mixture(self, z_NV: Tensor, token_N: Tensor) -> Tensor:
        """ẽ + sg(w(ē − ẽ)) for each masked position, (N, E)."""
        known_V = self.map_V >= 0
        q_NK = (z_NV[:, known_V] / self.settings.temperature).softmax(-1).to(self.embedding.dtype)
        soft_NE = q_NK @ self.embedding[self.map_V[known_V]]
        w_N = torch.special.entr(z_NV.detach().double().softmax(-1)).sum(-1) / math.log(z_NV.shape[-1])
        mapped_N = self.map_V[token_N]
        hard_NE = torch.where((mapped_N >= 0)[:, None], self.embedding[mapped_N.clamp(min=0)], soft_NE)
        return soft_NE + (w_N[:, None].to(soft_NE.dtype) * (hard_NE - soft_NE)).detach()

    def score(
        self, rows: list[int], listed: list[list[int]], soft_NE: Tensor, row_N: list[int], position_N: list[int]
    ) -> tuple[Tensor, list[int]]:
        """Rewards (rows,) of answers whose masks are read as mixtures, and the tokens read."""
        mapping = self.map_V.tolist()
        place = {(r, p): n for n, (r, p) in enumerate(zip(row_N, position_N, strict=True))}
        texts = []
        for row in rows:
            before, after = self.around[row]
            parts: list[Tensor] = [self.embedding[before]]
            for position, token in enumerate(listed[row]):
                if (n := place.get((row, position))) is not None:
                    parts.append(soft_NE[n : n + 1])
                elif token in self.eos_ids:
                    break
                elif mapping[token] >= 0:
                    parts.append(self.embedding[mapping[token]][None])
            texts.append(torch.cat([*parts, self.embedding[after]]))
        lengths = [len(text) for text in texts]
        embeds = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        attention = torch.zeros(embeds.shape[:2], dtype=torch.int64, device=embeds.device)
        for n, length in enumerate(lengths):
            attention[n, :length] = 1
        model = self.reward.model
        states = getattr(model, model.base_model_prefix)(inputs_embeds=embeds, attention_mask=attention)[0]
        last = torch.tensor(lengths, device=embeds.device) - 1
        return model.score(states[torch.arange(len(rows), device=embeds.device), last])[:, 0].float(), lengths
