"""A2D (dllm-hub): a Qwen3, Qwen2 or Llama adapted to diffusion, with full attention (mdlm) or attention by blocks (bd3lm)"""

from typing import Any

from rws_cli.models.base import BlockModel
from rws_cli.models.native import native_decoder
from rws_cli.part import part, setting


@part
class A2D(BlockModel):
    """Blocks are counted from the first token of the completion. config.json does not say which of the two a checkpoint is."""

    block_size: int | None = setting(
        "tokens per block of attention: 32 for bd3lm; null: all attend to all (mdlm)", None, min=1
    )

    anchor = "completion"

    def tokenizer_class(self) -> Any:
        # AutoTokenizer would stop at the unknown model type; tokenizer.json is complete.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import (
            LlamaConfig,
            LlamaForCausalLM,
            Qwen2Config,
            Qwen2ForCausalLM,
            Qwen3Config,
            Qwen3ForCausalLM,
        )

        classes = {
            "a2d-qwen3": (Qwen3ForCausalLM, Qwen3Config),
            "a2d-qwen2": (Qwen2ForCausalLM, Qwen2Config),
            "a2d-llama": (LlamaForCausalLM, LlamaConfig),
        }
        model_class, config_class = classes[config["model_type"].lower()]
        return model_class, {"config": native_decoder(config_class, config, self.path)}
