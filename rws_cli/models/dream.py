"""Dream (Dream-org, arXiv 2508.15487): a bidirectional Qwen2 whose logits for position i are read at position i − 1"""

from typing import Any

from rws_cli.errors import UsageError
from rws_cli.models.base import Model
from rws_cli.part import part

REQUIRED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
OPTIONAL_FIELDS = (
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "hidden_act",
    "eos_token_id",
    "pad_token_id",
)


def qwen2_config(config: dict[str, Any], path: str) -> Any:
    """The native configuration of a Dream config.json. Raises UsageError where the architecture differs from Qwen2's."""
    from transformers import Qwen2Config

    if config.get("use_sliding_window") or config.get("rope_scaling"):
        raise UsageError(f"model.path={path} is not supported: config.json asks for a sliding window or rope scaling.")
    native = Qwen2Config(
        **{name: config[name] for name in REQUIRED_FIELDS},
        **{name: config[name] for name in OPTIONAL_FIELDS if name in config},
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)},
        bos_token_id=None,
        use_cache=False,
    )
    native.is_causal = False
    return native


@part
class Dream(Model):
    shift = 1
    native = True
    without_shadows = "logits are read one place early"

    def tokenizer_class(self) -> Any:
        # Dream's tokenizer is Qwen2's (vocab.json, merges.txt, or tokenizer.json) under a class name of its own.
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import Qwen2ForCausalLM

        return Qwen2ForCausalLM, {"config": qwen2_config(config, self.path)}
