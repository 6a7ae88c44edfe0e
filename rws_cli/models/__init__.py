"""The denoiser: token ids with masks → logits. One file a family, one interface."""

from __future__ import annotations

from rws_cli.config.schema import Model
from rws_cli.models.base import Denoiser, Family, Prepared, check_loads, load, prepare
from rws_cli.parts import says


def family_of(kind: str) -> Family:
    """What sets a family apart: a built-in one's, or that of a file of its own."""
    from rws_cli.models.dream import DREAM
    from rws_cli.models.llada import LLADA
    from rws_cli.models.masked_lm import MASKED_LM

    built_in = {"llada": LLADA, "dream": DREAM, "masked_lm": MASKED_LM}
    return built_in[kind] if kind in built_in else says("model", kind, "FAMILY", None)


def prepare_model(settings: Model) -> Prepared:
    """All of a checkpoint but its weights. Raises UsageError if it is missing or not what it should be."""
    return prepare(settings, family_of(settings.kind))


def check_model(settings: Model) -> None:
    """Raises UsageError for a checkpoint that cannot be loaded, without reading its weights."""
    prepared = prepare_model(settings)
    check_loads(prepared.model_class, prepared.path, settings, "model", **prepared.arguments)


def load_model(settings: Model, prepared: Prepared | None = None, ranks: int = 1) -> Denoiser:
    """A loaded checkpoint of any known family, or this rank's part of it where several share it. Raises UsageError as
    prepare_model does, and if weights do not fit."""
    return load(settings, family_of(settings.kind), prepared or prepare_model(settings), ranks)
