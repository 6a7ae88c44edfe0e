"""Any AutoModelForCausalLM, decoded one token after another: the autoregressive baseline"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.errors import UsageError
from rws_cli.models.base import BlockModel, Denoiser, Forward, PreparedModel, additive, positions
from rws_cli.part import part, setting

NEVER = -1e30
"""The logit of the mask. Finite, so that p · log p is 0."""
ARGUMENTS = {"attention_mask", "position_ids", "past_key_values"}
"""What a model must take to be decoded in a batch with a cache."""


@part
class Causal(BlockModel):
    """Attention by blocks of one token, each predicted from the tokens before it. The mask is not a token of the model but an
    id after its vocabulary, which no pass reads."""

    block_size: int | None = setting("1: a token attends to itself and earlier ones", 1, min=1, max=1)

    shift = 1
    first_token = True

    def mistakes(self, key: str) -> Iterator[str]:
        yield from super().mistakes(key)
        if self.block_size is None:
            yield f"{key}.block_size is 1 for a causal model, not null."

    def conflicts(self, config: Any) -> Iterator[str]:
        for key, node in (("sampler", config.sampler), ("likelihood", config.likelihood)):
            if node.cfg_scale > 0:
                yield f"{key}.cfg_scale={node.cfg_scale} masks the prompt, but model.kind=causal has no mask token."

    def tokenizer_class(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM, {}

    def prepare(self) -> PreparedModel:
        prepared = super().prepare()
        native = prepared.arguments["config"]
        model_class = prepared.model_class._model_mapping.get(type(native), None)
        if model_class is None or not inspect.signature(model_class.forward).parameters.keys() >= ARGUMENTS:
            raise UsageError(
                f"model.path={self.path} is a {native.model_type} model, which model.kind=causal does not decode: it needs a "
                "decoder that takes an attention mask, positions and a cache."
            )
        text = native.get_text_config()
        if window := getattr(text, "sliding_window", None):  # as far as the window reaches, its attention is full
            text.max_position_embeddings = min(window, text.max_position_embeddings)
        return prepared

    def forward(self, model: Any) -> Forward:
        return causal_forward(model)

    def load(self, prepared: PreparedModel | None = None, ranks: int = 1) -> Denoiser:
        denoiser = super().load(prepared, ranks)
        tokens = torch.arange(8, device=denoiser.device)[None]
        with torch.inference_mode():
            wanted = torch.ones_like(tokens, dtype=torch.bool)
            ours = denoiser.logits(tokens, wanted, torch.cat([~wanted[:, :1], wanted], 1))[:, : denoiser.mask_id]
            plain = denoiser.model(input_ids=tokens).logits[0].float()
        if (ours - plain).abs().max() > 0.05 * plain.abs().max():
            raise UsageError(
                f"model.path={self.path} gives other logits under an explicit attention mask, so model.kind=causal cannot "
                "decode it in a batch."
            )
        return denoiser


def causal_forward(model: Any) -> Forward:
    """The forward pass of a causal language model, with logits for the positions after those passed; see base.Forward."""

    def forward(
        tokens_BL: Tensor,
        visible_BLK: Tensor,
        wanted_BL: Tensor,
        position_BL: Tensor,
        cache: Any = None,
        count: int | None = None,
    ) -> Tensor:
        row_N, column_N = positions(wanted_BL, count)
        column_K, place_N = (column_N - 1).unique(return_inverse=True)
        vocabulary = model.config.get_text_config().vocab_size
        logits_BKV = model(
            input_ids=tokens_BL.clamp(max=vocabulary - 1),  # masks, which no token attends to
            attention_mask=additive(visible_BLK, model.dtype),
            position_ids=position_BL,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=column_K,
        ).logits
        logits_NV = logits_BKV[row_N, place_N]
        return torch.cat([logits_NV, logits_NV.new_full((len(logits_NV), 1), NEVER)], 1)

    return forward
