"""A Glm4Moe whose checkpoint stores query, key and value weights as one, under other names.

Import it only to load such a checkpoint: it imports transformers.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Glm4MoeForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

FUSED = r"\.attention\.query_key_value\.weight"
SPLIT = [rf".self_attn.{name}_proj.weight" for name in "qkv"]
RENAMED = {
    r"^model\.word_embeddings\.": "model.embed_tokens.",
    r"\.attention\.dense\.": ".self_attn.o_proj.",
    r"\.attention\.query_layernorm\.": ".self_attn.q_norm.",
    r"\.attention\.key_layernorm\.": ".self_attn.k_norm.",
    r"\.mlp\.gate\.expert_bias$": ".mlp.gate.e_score_correction_bias",
}
"""Names in the checkpoint → native names."""


class SplitHeads(ConversionOps):
    """Splits a weight whose rows are those of all query heads, then of key heads, then of value heads."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], config: Any, **_: Any
    ) -> dict[str, Tensor]:
        (stored,) = input_dict.values()
        fused: Tensor = stored[0] if isinstance(stored, list) else stored
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        width = len(fused) // (heads + 2 * shared)
        parts = torch.split(fused, [heads * width, shared * width, shared * width])
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}


class FusedGlm4MoeForCausalLM(Glm4MoeForCausalLM):
    """Glm4MoeForCausalLM under a name of its own, by which transformers finds how its checkpoints are converted."""


register_checkpoint_conversion_mapping(
    FusedGlm4MoeForCausalLM.__name__,
    [
        *(WeightRenaming(source_patterns=source, target_patterns=target) for source, target in RENAMED.items()),
        WeightConverter(source_patterns=FUSED, target_patterns=SPLIT, operations=[SplitHeads()]),
        *get_checkpoint_conversion_mapping("glm4_moe"),  # merges experts
    ],
    overwrite=True,
)
