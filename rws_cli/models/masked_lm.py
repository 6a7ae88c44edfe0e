"""Any AutoModelForMaskedLM (BERT, RoBERTa, ModernBERT, …) as a denoiser"""

import inspect
from typing import Any

from torch import Tensor

from rws_cli.models.base import Forward, Model, position_ids, positions
from rws_cli.part import part


@part
class MaskedLM(Model):
    def tokenizer_class(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM, {}

    def forward(self, model: Any) -> Forward:
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        # RoBERTa-like models number positions from the padding id upward.
        first = next(
            (m.padding_idx + 1 for m in model.modules() if hasattr(m, "create_position_ids_from_input_ids")), 0
        )

        def forward(tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, *, count: int | None = None) -> Tensor:
            numbered = {"position_ids": position_ids(attention_BL) + first} if takes_positions else {}
            output = model(input_ids=tokens_BL, attention_mask=attention_BL.long(), **numbered)
            return output.logits[positions(wanted_BL, count)]

        return forward
