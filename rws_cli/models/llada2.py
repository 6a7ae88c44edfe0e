"""LLaDA2.0 (inclusionAI, arXiv 2512.15745) and LLaDA2.1: a mixture of experts that attends by blocks of 32 tokens"""

from collections.abc import Iterator
from typing import Any

from rws_cli.models.base import BlockModel
from rws_cli.models.native import check_fields, native_decoder
from rws_cli.part import part, setting

EXPECTED = {
    "model_type": "llada2_moe",
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "norm_topk_prob": True,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_bias": False,
    "norm_head": False,
}
"""Values that make a LLaDA2 checkpoint a Glm4Moe; absent fields have these values."""


def glm4_moe_config(config: dict[str, Any], path: str) -> Any:
    """The native configuration of a LLaDA2 config.json. Raises UsageError where the architecture differs from Glm4Moe's."""
    from transformers import Glm4MoeConfig

    check_fields(config, path, EXPECTED)
    return native_decoder(
        Glm4MoeConfig,
        config,
        path,
        n_routed_experts=config["num_experts"],
        n_shared_experts=config["num_shared_experts"],
        num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        norm_topk_prob=True,
        use_qk_norm=True,
        attention_bias=False,
        num_mtp_layers=0,
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": config["rope_theta"],
            "partial_rotary_factor": config.get("partial_rotary_factor", 0.5),
        },
    )


@part
class LLaDA2(BlockModel):
    """Blocks are counted from the first token of the prompt, whose last tokens may share a block with the completion."""

    block_size: int | None = setting("tokens per block of attention", 32, min=1)

    def conflicts(self, config: Any) -> Iterator[str]:
        if config.runtime.backend == "tensor_parallel":
            yield f"runtime.backend=tensor_parallel does not work with model.kind={self.kind}, which cannot be split."

    def tokenizer_class(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from rws_cli.models.fused_qkv import FusedGlm4MoeForCausalLM

        return FusedGlm4MoeForCausalLM, {"config": glm4_moe_config(config, self.path)}
