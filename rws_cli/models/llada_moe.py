"""LLaDA-MoE (inclusionAI, arXiv 2509.24389): LLaDA as a mixture of experts, loaded as a bidirectional Qwen3Moe"""

from typing import Any

from rws_cli.models.base import Model
from rws_cli.models.native import check_fields, native_decoder
from rws_cli.part import part

EXPECTED = {
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
    "shared_expert_intermediate_size": 0,
    "routed_scaling_factor": 1,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "clip_qkv": None,
}
"""Values that make a LLaDA-MoE checkpoint a Qwen3Moe; absent fields have these values."""


def qwen3_moe_config(config: dict[str, Any], path: str) -> Any:
    """The native configuration of a LLaDA-MoE config.json. Raises UsageError where the architecture differs from Qwen3Moe's."""
    from transformers import Qwen3MoeConfig

    check_fields(config, path, EXPECTED | {"moe_layer_freq": [1] * config["num_hidden_layers"]})
    return native_decoder(
        Qwen3MoeConfig,
        config,
        path,
        intermediate_size=config["dense_intermediate_size"],
        moe_intermediate_size=config["expert_intermediate_size"],
        head_dim=config["hidden_size"] // config["num_attention_heads"],
        norm_topk_prob=False,  # as in the published code, whatever config.json has
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )


@part
class LLaDAMoE(Model):
    native = True
    without_shadows = None

    def tokenizer_class(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import Qwen3MoeForCausalLM

        return Qwen3MoeForCausalLM, {"config": qwen3_moe_config(config, self.path)}
