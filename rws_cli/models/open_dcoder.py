"""Open-dCoder (fredzzp/open-dcoder-0.5B): a bidirectional Qwen2 whose logits for position i are read at position i − 1

Its config.json is that of a causal Qwen2, so model=auto cannot recognize it.
"""

from typing import Any

from rws_cli.models.base import Model
from rws_cli.models.native import check_fields, native_decoder
from rws_cli.part import part


@part
class OpenDCoder(Model):
    shift = 1
    native = True
    without_shadows = "logits are read one place early"

    def tokenizer_class(self) -> Any:
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        check_fields(config, self.path, {"model_type": "qwen2"})
        return Qwen2ForCausalLM, {"config": native_decoder(Qwen2Config, config, self.path)}
