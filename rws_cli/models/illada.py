"""iLLaDA (GSAI-ML, arXiv 2606.25331): a bidirectional Llama with grouped key heads, whose weights have Llama's names

The checkpoint does not name its mask token: set model.mask_token_id=5, as the presets do.
"""

from typing import Any

from rws_cli.models.base import Model
from rws_cli.models.native import native_decoder
from rws_cli.part import part


@part
class ILLaDA(Model):
    native = True
    without_shadows = None

    def tokenizer_class(self) -> Any:
        # AutoTokenizer would stop at the unknown model type.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM, {"config": native_decoder(LlamaConfig, config, self.path)}
