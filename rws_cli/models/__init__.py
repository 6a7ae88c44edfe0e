"""The denoiser: token ids with masks → logits. One file a family, one interface."""

from __future__ import annotations

from rws_cli.config import Model
from rws_cli.models.base import Denoiser


def load_model(settings: Model) -> Denoiser:
    """Load a checkpoint of any known family. Raises UsageError if it is missing or not what it should be."""
    from rws_cli.models import dream, llada, masked_lm

    families = {"llada": llada.load, "dream": dream.load, "masked_lm": masked_lm.load}
    return families[settings.kind](settings)
