"""Model families by their config.json: one table, for model=auto and for refusing a checkpoint under another family's kind."""

from dataclasses import dataclass, field
from typing import Any

from rws_cli.errors import UsageError


@dataclass(frozen=True)
class Family:
    """A family of checkpoints. kind: None if it is not supported, because `reason`.

    architectures, model_types: names in config.json, any of which identifies it; model types in lower case, and only in a
    config.json that has `fields`. settings: what model=auto sets unless the user does.
    """

    kind: str | None
    title: str
    architectures: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


NOT_MASKED = "it decodes from uniformly random tokens and has no mask token"
REMOTE = "its network, a diffusion transformer, is not in transformers, and rws runs no remote code"
REORDERED = "it is causal and reorders tokens while it decodes"

FAMILIES = (
    Family("llada_moe", "LLaDA-MoE", ("LLaDAMoEModelLM", "LLaDAMoEModel"), ("llada", "llada_moe"), ("num_experts",), {"mask_token_id": 156895}),
    Family("llada", "LLaDA", ("LLaDAModelLM",), ("llada",)),
    Family("dream", "Dream, Dream-Coder or DiffuCoder", ("DreamModel",), ("dream",)),
    Family(
        "a2d", "A2D", model_types=("a2d-qwen3", "a2d-qwen2", "a2d-llama"),
        settings={"chat_template_arguments": {"enable_thinking": False}},
    ),
    Family("illada", "iLLaDA", ("ILLaDAForCausalLM",), ("illada",), settings={"mask_token_id": 5}),
    Family("sdar", "SDAR or TraDo", ("SDARForCausalLM", "SDARMoeForCausalLM"), ("sdar", "sdar_moe")),
    Family("fast_dllm_v2", "Fast-dLLM v2", ("Fast_dLLM_QwenForCausalLM",), ("fast_dllm_qwen",)),
    Family("llada2", "LLaDA 2", ("LLaDA2MoeModelLM",), ("llada2_moe",), settings={"mask_token_id": 156895}),
    Family(None, "DiffusionGemma", ("DiffusionGemmaForBlockDiffusion",), ("diffusion_gemma",), reason=NOT_MASKED),
    Family(None, "MDLM, BD3-LM or SEDD", ("MDLM", "BD3LM", "SEDD"), ("mdlm", "bd3lm", "sedd"), reason=REMOTE),
    Family(None, "WeDLM", ("WeDLMForCausalLM",), ("wedlm",), reason=REORDERED),
)  # fmt: skip
"""Those of which the published class has a name of its own; the first that fits."""
MASKED_LM = Family("masked_lm", "masked language model")
CAUSAL = Family("causal", "causal language model")
GENERAL = {MASKED_LM.kind: MASKED_LM, CAUSAL.kind: CAUSAL}
"""Kinds for any model of transformers', by the end of its class's name."""
KINDS = {family.kind: family for family in FAMILIES if family.kind} | GENERAL


def family_of(config: dict[str, Any]) -> Family | None:
    """The family of a config.json, None if no family fits."""
    stated = config.get("architectures")
    architectures = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    model_type = str(config.get("model_type")).lower()
    for family in FAMILIES:
        if not set(family.architectures).isdisjoint(architectures):
            return family
    for family in FAMILIES:
        if model_type in family.model_types and all(config.get(name) for name in family.fields):
            return family
    for family, ends in ((MASKED_LM, ("ForMaskedLM",)), (CAUSAL, ("ForCausalLM", "LMHeadModel"))):
        if any(name.endswith(ends) for name in architectures):
            return family
    return None


def check_family(kind: str, config: dict[str, Any], named: str) -> None:
    """Raises UsageError if a config.json belongs to a family of another kind, or to one that is not supported. named: the
    setting that names the checkpoint.

    A kind outside this module's table may load anything. The general kinds also load what no family fits.
    """
    family = family_of(config)
    if kind not in KINDS or family is KINDS[kind] or (family is None and kind in GENERAL):
        return
    if family is None:
        raise UsageError(f"{named} is not a checkpoint of model.kind={kind}: {described(config)}.")
    if family.kind is None:
        raise _unsupported(family, named)
    raise UsageError(
        f"{named} is not a checkpoint of model.kind={kind}, but of {family.title}: set model.kind={family.kind}."
    )


def recognize(config: dict[str, Any], named: str) -> Family:
    """The family of a config.json. Raises UsageError if it is not supported, or no family fits."""
    family = family_of(config)
    if family is None:
        titles = ", ".join(each.title for each in KINDS.values())
        raise UsageError(
            f"{named} is of no family that model=auto recognizes: {described(config)}. It recognizes {titles}."
        )
    if family.kind is None:
        raise _unsupported(family, named)
    return family


def _unsupported(family: Family, named: str) -> UsageError:
    return UsageError(f"{named} is a checkpoint of {family.title}, which is not supported: {family.reason}.")


def described(config: dict[str, Any]) -> str:
    """What a config.json says that it is; the end of a sentence."""
    return f"config.json says model_type {config.get('model_type')} and architectures {config.get('architectures')}"
