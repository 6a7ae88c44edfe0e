"""SDAR (JetLM, arXiv 2510.06303) and TraDo (Gen-Verse, arXiv 2509.06949): a Qwen3 that attends by blocks of 4 tokens"""

from typing import Any

from rws_cli.models.base import BlockModel
from rws_cli.models.native import check_fields, native_decoder
from rws_cli.part import part, setting


@part
class Sdar(BlockModel):
    """Blocks are counted from the first token of the prompt, whose last tokens may share a block with the completion."""

    block_size: int | None = setting("tokens per block of attention; -b8 to -b64 checkpoints have more", 4, min=1)

    def tokenizer_class(self) -> Any:
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

        if config["model_type"] == "sdar_moe":
            return Qwen3MoeForCausalLM, {"config": native_decoder(Qwen3MoeConfig, config, self.path)}
        check_fields(config, self.path, {"model_type": "sdar"})
        return Qwen3ForCausalLM, {"config": native_decoder(Qwen3Config, config, self.path)}
