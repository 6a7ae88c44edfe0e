"""Fast-dLLM v2 (Nvidia, arXiv 2509.26328): a Qwen2 that attends by blocks of 32 tokens, and reads logits one place early"""

from typing import Any

from rws_cli.errors import UsageError
from rws_cli.models.base import BlockModel
from rws_cli.models.native import check_fields, native_decoder
from rws_cli.part import part, setting


@part
class FastDllmV2(BlockModel):
    """Blocks are counted from the first token of the prompt, whose last tokens may share a block with the completion. The
    first token of a block is predicted from the blocks before it, in a step of its own."""

    block_size: int | None = setting("tokens per block of attention: the checkpoint's", 32, min=1)

    shift = 1
    first_token = True

    def tokenizer_class(self) -> Any:
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        check_fields(config, self.path, {"model_type": "Fast_dLLM_Qwen"})
        size = config.get("bd_size", self.block_size)
        if size != self.block_size:
            raise UsageError(
                f"model.block_size={self.block_size} is not that of model.path={self.path}: set model.block_size={size}."
            )
        return Qwen2ForCausalLM, {"config": native_decoder(Qwen2Config, config, self.path)}
