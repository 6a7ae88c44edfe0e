"""LLaDA (arXiv 2502.09992): a bidirectional LLaMA, loaded through transformers' native class without remote code

Only names differ: LLaDA's config.json fields and weight keys are translated here. The bundled model has this format.
"""

from typing import Any

from rws_cli.errors import UsageError
from rws_cli.models.base import Model
from rws_cli.part import part

KEY_MAPPING = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.blocks\.(\d+)\.q_proj\.": r"model.layers.\1.self_attn.q_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.k_proj\.": r"model.layers.\1.self_attn.k_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.v_proj\.": r"model.layers.\1.self_attn.v_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.up_proj\.": r"model.layers.\1.mlp.up_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
}
"""One pattern per projection, with at most one group: for patterns with more, transformers leaves weights random."""

EXPECTED = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "bias_for_layer_norm": False,
    "include_bias": False,
}
"""Values that make a LLaDA checkpoint a LLaMA; absent fields have these values."""


def llama_config(config: dict[str, Any], path: str) -> Any:
    """The native configuration of a LLaDA config.json. Raises UsageError where the architecture differs from LLaMA's."""
    from transformers import LlamaConfig

    for name, value in EXPECTED.items():
        if config.get(name, value) != value:
            raise UsageError(f"model.path={path} is not supported: config.json has {name}={config[name]}, not {value}.")
    if multi_query := config.get("multi_query_attention"):
        raise UsageError(f"model.path={path} is not supported: config.json has multi_query_attention={multi_query}.")
    width, heads = config["d_model"], config["n_heads"]
    if not (config.get("mlp_hidden_size") or config.get("mlp_ratio")):
        raise UsageError(f"model.path={path} has a config.json without mlp_hidden_size and mlp_ratio.")
    native = LlamaConfig(
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        hidden_size=width,
        intermediate_size=config.get("mlp_hidden_size") or width * config["mlp_ratio"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("n_kv_heads") or heads,
        max_position_embeddings=config["max_sequence_length"],
        rms_norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)},
        attention_bias=bool(config.get("include_qkv_bias", False)),
        tie_word_embeddings=bool(config.get("weight_tying", False)),
        bos_token_id=None,
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=config.get("pad_token_id"),
        use_cache=False,
    )
    native.is_causal = False
    return native


@part
class LLaDA(Model):
    native = True
    without_shadows = None

    def tokenizer_class(self) -> Any:
        # LLaDA ships a plain tokenizer.json; AutoTokenizer would stop at its unknown model type.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM, {"config": llama_config(config, self.path), "key_mapping": KEY_MAPPING}
