"""Gradients of a reward model move the logits, through embeddings mixed by entropy (EntRGi, 2602.05000)

At each step, Adam takes `steps` steps on the logits z of the masked positions to raise the reward r. At a masked position
the reward model reads ẽ + sg(w(ē − ẽ)), where ẽ = Σ_v q_v E(v) with q = softmax(z / τ) over the tokens that both
vocabularies have, ē is the embedding of a token drawn from softmax(z / τ) cut to sampler.top_p (drawn again at each step
of Adam), and w = H(softmax(z)) / log V. So confident predictions are read as mixtures, uncertain ones as a token, and
gradients always flow through ẽ. Orders read the logits from before these steps.

The reward model has its own vocabulary: a token is mapped to the one that is written the same there; a token without a
counterpart is left out of the mixture.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.decoding.noise import mix
from rws_cli.decoding.prediction import FILL, propose, temper
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.record import charge
from rws_cli.decoding.step import Step
from rws_cli.errors import RunError, UsageError
from rws_cli.guidance.base import Guidance, Guided
from rws_cli.models.chat import render
from rws_cli.part import part, setting

PLACEHOLDER = "\u241f"  # stands for the completion; no prompt contains it
GRADIENT_COST = 3
"""A token of a gradient step counts as this many: the backward pass is twice the work of the forward pass."""

ADAM = 1 << 43
"""Added to random-number keys for each further step of Adam."""

LEAST_SHARED = 0.5
"""The share of the model's vocabulary that must have a counterpart."""


@part
class Entrgi(Guidance):
    steps: int = setting("gradient steps per decoding step", 3, min=1)
    rate: float = setting("Adam's learning rate", 0.5, above=0.0)
    temperature: float = setting("τ, the temperature of the mixture of embeddings", 0.7, above=0.0)

    needs = ("reward", "gradients")
    draws = True
    family = "guidance"
    caches = ("prefix",)

    def conflicts(self, config: Any) -> Iterator[str]:
        if getattr(config.reward, "needs_remote_code", False):
            yield (
                f"sampler.guidance.kind={self.kind} passes embeddings to the reward model, which the Python of "
                f"reward={config.reward.name} does not accept."
            )

    def load(self, prepared: Any, reward: Any) -> None:
        self.top_p, self.reward = prepared.config.sampler.top_p, reward
        ours, theirs = prepared.model.tokenizer.get_vocab(), reward.tokenizer.get_vocab()
        self.use(token_map(ours, theirs, prepared.model.vocabulary), prepared.model.eos_ids)

    def use(self, map_V: Tensor, eos_ids: tuple[int, ...]) -> None:
        """Set the reward model's token for each of the model's, and the end tokens."""
        self.eos_ids, self.mapping = eos_ids, map_V.tolist()
        self.embedding = self.reward.model.get_input_embeddings().weight
        self.map_V = map_V.to(self.embedding.device)
        self.shared_K = (self.map_V >= 0).nonzero()[:, 0]
        self.around: dict[str, tuple[list[int], list[int]]] = {}

    def reads_masked(self, step: Step) -> Tensor:
        return step.live_B

    def calls(self, steps: int) -> int:
        return steps * self.steps

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        index_n = step.all_masked_BG[predicted.row_N, predicted.position_N].nonzero()[:, 0]
        logits_NV = predicted.logits_NV.clone()
        logits_NV[index_n] = self.move(predicted.some(index_n), step)
        return Guided(logits_NV, order_logits_NV=predicted.logits_NV)

    def move(self, predicted: PositionLogits, step: Step) -> Tensor:
        """The logits (N, V) of masked positions after the steps of Adam, which are taken on the reward model's device."""
        scorer, device = step.reward, self.embedding.device
        assert scorer is not None
        drawn_with = (step.key_B[predicted.row_N], step.number_B[predicted.row_N], predicted.position_N)
        key_N, number_N, position_N = torch.stack(drawn_with).to(device)
        rows_N, positions_N = torch.stack([predicted.row_N, predicted.position_N]).tolist()
        rows, places = list(dict.fromkeys(rows_N)), list(zip(rows_N, positions_N, strict=True))
        with charge(scorer.costs, rows, "reward_seconds"), torch.inference_mode(False), torch.enable_grad():
            layout, lengths = self.layout(rows, places, step)
            z_NV = predicted.logits_NV.to(device, copy=True).requires_grad_()
            adam = torch.optim.Adam([z_NV], lr=self.rate)
            for number in range(self.steps):
                adam.zero_grad()
                keys_N = key_N if number == 0 else mix(key_N + number * ADAM)
                drawn_NV = temper(z_NV.detach().double(), self.temperature, self.top_p)
                token_N = propose(
                    drawn_NV,
                    self.temperature,
                    step.mask_id,
                    keys_N,
                    number_N,
                    position_N,
                    FILL,
                )
                score = self.score(layout, self.mixture(z_NV, token_N))
                if score.requires_grad:  # false if all masks are behind an end token
                    (-score.sum()).backward()
                adam.step()
                for row, count in zip(rows, lengths, strict=True):
                    scorer.costs[row].reward_calls += 1
                    scorer.costs[row].reward_tokens += GRADIENT_COST * count
        return z_NV.detach().to(predicted.logits_NV.device)

    def mixture(self, z_NV: Tensor, token_N: Tensor) -> Tensor:
        """ẽ + sg(w(ē − ẽ)) for each masked position, (N, E)."""
        q_NK = (z_NV[:, self.shared_K] / self.temperature).softmax(-1).to(self.embedding.dtype)
        soft_NE = q_NK @ self.embedding[self.map_V[self.shared_K]]
        w_N = torch.special.entr(z_NV.detach().double().softmax(-1)).sum(-1) / math.log(z_NV.shape[-1])
        mapped_N = self.map_V[token_N]
        hard_NE = torch.where((mapped_N >= 0)[:, None], self.embedding[mapped_N.clamp(min=0)], soft_NE)
        return soft_NE + (w_N[:, None].to(soft_NE.dtype) * (hard_NE - soft_NE)).detach()

    def layout(self, rows: list[int], places: list[tuple[int, int]], step: Step) -> tuple[Tensor, list[int]]:
        """The reward model's input, (rows, length): its own token ids, −1 − n at the n-th masked place (row and position), and
        an id beyond the vocabulary as padding; and the length of each row."""
        place = {at: n for n, at in enumerate(places)}
        listed = step.tokens_BG.tolist()
        texts = []
        for row in rows:
            before, after = self.surroundings(step.reward.examples[row])
            completion: list[int] = []
            for position, token in enumerate(listed[row]):
                if (n := place.get((row, position))) is not None:
                    completion.append(-1 - n)
                elif token in self.eos_ids:
                    break
                elif self.mapping[token] >= 0:
                    completion.append(self.mapping[token])
            texts.append([*before, *completion, *after])
        lengths = [len(text) for text in texts]
        padded = [text + [len(self.embedding)] * (max(lengths) - len(text)) for text in texts]
        return torch.tensor(padded).to(self.embedding.device), lengths

    def surroundings(self, example: Any) -> tuple[list[int], list[int]]:
        """The reward model's tokens before and after a completion."""
        if example.id not in self.around:
            reward = self.reward
            text = render(reward.tokenizer, example.messages(PLACEHOLDER), reward.key, reward.template, RunError)
            before, _, after = text.partition(PLACEHOLDER)
            ids = [reward.tokenizer(half, add_special_tokens=False).input_ids for half in (before, after)]
            self.around[example.id] = (ids[0], ids[1])
        return self.around[example.id]

    def score(self, layout_BL: Tensor, soft_NE: Tensor) -> Tensor:
        """Rewards (rows,) of texts with mixtures in place of masks."""
        is_read_BL = layout_BL < len(self.embedding)
        soft_BLE = soft_NE[(-1 - layout_BL).clamp(min=0)]
        hard_BLE = self.embedding[layout_BL.clamp(0, len(self.embedding) - 1)]
        embeds = torch.where((layout_BL < 0)[..., None], soft_BLE, hard_BLE)
        embeds = torch.where(is_read_BL[..., None], embeds, 0.0)
        model = self.reward.model
        states = getattr(model, model.base_model_prefix)(inputs_embeds=embeds, attention_mask=is_read_BL.long())[0]
        last_B = is_read_BL.sum(-1) - 1
        return model.score(states[torch.arange(len(states), device=last_B.device), last_B])[:, 0].float()


def token_map(denoiser: dict[str, int], reward: dict[str, int], size: int) -> Tensor:
    """For each of the model's `size` tokens, the reward model's token that is written the same, or −1; (size,).

    Raises UsageError if fewer than half have one: gradients through such a map would mean little.
    """
    map_V = torch.full((size,), -1, dtype=torch.int64)
    for text, token in denoiser.items():
        if token < size and text in reward:
            map_V[token] = reward[text]
    if (share := float((map_V >= 0).double().mean())) < LEAST_SHARED:
        raise UsageError(
            f"sampler.guidance.kind=entrgi needs a reward model that shares the model's vocabulary; only {share:.0%} of "
            "its tokens are written the same there: choose another reward."
        )
    return map_V
