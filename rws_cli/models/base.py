"""What every family shares: device and dtype, the tokenizer, and the checks after loading."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rws_cli.benchmarks.base import messages
from rws_cli.errors import UsageError, out_of_memory
from rws_cli.models.checkpoint import locate, read_config
from rws_cli.models.sharded import split_among
from rws_cli.schema import ClassifierReward, Model

Forward = Callable[..., Tensor]
"""(tokens (B, L), attention (B, L), wanted (B, L)) → logits (N, V) at the wanted positions, in row-major order. Where
`attention` is (B, L, K), who sees whom, a fourth argument gives positions (B, L); a fifth is a cache of transformers,
which makes K of L."""


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    tokenizer: its tokenizer class. weights: its model class and the arguments of from_pretrained, from config.json and
    the path to name in errors. forward: its forward pass. shift: 1 where logits for position i are read at i − 1.
    """

    tokenizer: Callable[[], Any]
    weights: Callable[[dict[str, Any], str], tuple[Any, dict[str, Any]]]
    forward: Callable[[Any], Forward]
    shift: int = 0


@dataclass(frozen=True)
class Prepared:
    """All of a checkpoint but its weights. eos_ids: tokens that end an answer, the one that pads it first."""

    path: str
    model_class: Any
    arguments: dict[str, Any]
    tokenizer: Any
    mask_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    chat_template: bool

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens that the model has logits for."""
        return getattr(self.arguments.get("config"), "vocab_size", None) or len(self.tokenizer)

    def encode(self, prompt: str, history: Iterable[tuple[str, str]] = ()) -> list[int]:
        """Token ids of a user's turn and those before it, as far as the place where the answer starts.

        Without a chat template the turns stand one below the other, an empty line between them.
        """
        spoken = messages(prompt, history)
        if not self.chat_template:
            return self.tokenizer("\n\n".join(message["content"] for message in spoken)).input_ids
        text = self.tokenizer.apply_chat_template(spoken, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False).input_ids


@dataclass(frozen=True)
class Denoiser(Prepared):
    """A checkpoint with its weights."""

    model: Any
    forward: Forward
    device: torch.device
    shift: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes logits in."""
        return self.model.dtype

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor) -> Tensor:
        """Logits (N, V), float32, at the wanted positions; padding (attention False) is not attended to."""
        return self.forward(tokens_BL, attention_BL, wanted_BL).float()

    def shadowed(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, block_L: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, V) as `logits` has them, and for each of the K positions in block_L those of its shadow (B, K, V).

        A shadow is a mask that stands at its position's place behind the sequence. It sees the sequence but for that
        position, and all shadows; the sequence sees no shadow (WINO, arXiv 2507.18578).
        """
        (length,), place_K = block_L.shape, block_L.nonzero()[:, 0]
        rows, count = len(tokens_BL), len(place_K)
        shadows_BK = torch.full((rows, count), self.mask_id, device=tokens_BL.device)
        position_BL = position_ids(attention_BL)
        visible = torch.zeros(rows, length + count, length + count, dtype=torch.bool, device=tokens_BL.device)
        visible[:, :, :length] = attention_BL[:, None, :]
        own = torch.arange(length, length + count, device=tokens_BL.device)
        visible[:, own, place_K] = False
        visible[:, length:, length:] = True
        everyone = torch.zeros(rows, length + count, dtype=torch.bool, device=tokens_BL.device)
        everyone[:, :length], everyone[:, length:] = wanted_BL, True
        logits = self.forward(
            torch.cat([tokens_BL, shadows_BK], 1),
            visible,
            everyone,
            torch.cat([position_BL, position_BL[:, place_K]], 1),
        ).float()
        is_shadow = everyone.nonzero()[:, 1] >= length
        return logits[~is_shadow], logits[is_shadow].view(rows, count, -1)

    def until_end(self, ids: list[int]) -> list[int]:
        """The ids before the first end token."""
        end = next((n for n, token in enumerate(ids) if token in self.eos_ids), len(ids))
        return ids[:end]

    def text(self, ids: list[int], masks: str = "drop") -> str:
        """The answer's text, cut at the first end token, masks dropped or kept as the tokenizer writes them."""
        ids = self.until_end(ids)
        if masks == "keep":
            return self.tokenizer.decode(ids, skip_special_tokens=False)
        return self.tokenizer.decode([token for token in ids if token != self.mask_id], skip_special_tokens=True)


def prepare(settings: Model, family: Family) -> Prepared:
    """Find and read a checkpoint, weights apart. Raises UsageError for whatever is missing or does not fit."""
    pick_device(settings.device, "model.device")
    path = locate(settings.path, "model.path")
    config = read_config(path, settings.revision, "model.path")
    model_class, arguments = family.weights(config, settings.path)
    tokenizer = load_tokenizer(family.tokenizer(), path, settings, "model")
    mask_id, eos_ids, pad_id = find_tokens(settings, config, tokenizer)
    return Prepared(path, model_class, arguments, tokenizer, mask_id, eos_ids, pad_id, settings.chat_template)


def load(settings: Model, family: Family, prepared: Prepared, ranks: int = 1) -> Denoiser:
    """Load the weights of a prepared checkpoint, or this rank's part of them. Raises UsageError if they do not fit, or do
    not run in as few bits as they should."""
    arguments = prepared.arguments | split_among(ranks)
    model, device = load_weights(prepared.model_class, prepared.path, settings, "model", **arguments)
    denoiser = Denoiser(**vars(prepared), model=model, forward=family.forward(model), device=device, shift=family.shift)
    try:
        check_bidirectional(denoiser)
    except RuntimeError as error:
        if settings.quantization == "none" or out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"model.quantization={settings.quantization} does not run on {device}: {reason}") from error
    return denoiser


def pick_device(name: str, key: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{key}={name} is not a device: use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{key}={name} is not here: torch {torch.__version__} finds no CUDA device; use {key}=cpu.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """auto: float32 on a CPU, where half precision is slow and no memory is short; as stored elsewhere."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, name)


def load_weights(
    auto_class: Any, path: str, settings: Model | ClassifierReward, key: str, **arguments: Any
) -> tuple[Any, torch.device]:
    """from_pretrained with this project's rules: safetensors only, every weight found, none left over.

    Raises UsageError naming `key` (model or reward) and what is wrong with the checkpoint.
    """
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    device = pick_device(settings.device, f"{key}.device")
    if settings.device_map is not None:
        arguments["device_map"] = settings.device_map
    if settings.trust_remote_code:
        arguments["trust_remote_code"] = True
    if settings.quantization != "none":
        arguments["quantization_config"] = quantization(settings.quantization, key)
        arguments.setdefault("device_map", {"": device})  # it places what it quantizes itself
    try:
        model, report = auto_class.from_pretrained(
            path,
            revision=settings.revision,
            dtype=pick_dtype(settings.dtype, device),
            attn_implementation=settings.attention,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{key}.path={settings.path} cannot be loaded: {reason[:300]}") from error
    except Exception as error:  # safetensors raises its own type, which is no subclass of the above
        if type(error).__module__.split(".")[0] != "safetensors" and "Safetensor" not in type(error).__name__:
            raise
        raise UsageError(
            f"{key}.path={settings.path} cannot be loaded: {error} (a corrupt or partial file?)"
        ) from error
    for words in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, report.get(f"{words}_keys") or [])):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UsageError(
                f"{key}.path={settings.path} does not fit {type(model).__name__}: "
                f"{words} weights {', '.join(names[:3])}{more}."
            )
    model.eval().requires_grad_(False)
    if "device_map" not in arguments:
        model.to(device)
    return model, next(model.parameters()).device


def quantization(bits: str, key: str) -> Any:
    """What transformers needs to quantize while it loads. Raises UsageError without bitsandbytes."""
    import logging
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UsageError(f"{key}.quantization={bits} needs bitsandbytes: pip install 'rws[quantized]'.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every layer that it rounds
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)


def load_tokenizer(auto_class: Any, path: str, settings: Model | ClassifierReward, key: str) -> Any:
    try:
        remote = {"trust_remote_code": True} if settings.trust_remote_code else {}
        return auto_class.from_pretrained(path, revision=settings.revision, **remote)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{key}.path={settings.path} has no tokenizer that can be loaded: {reason[:300]}") from error


def find_tokens(settings: Model, config: dict[str, Any], tokenizer: Any) -> tuple[int, tuple[int, ...], int]:
    """Mask, end and padding ids: the settings' word first, then the checkpoint's, then the tokenizer's.

    End tokens are the end of text and, where the tokenizer has one, the end of turn that chat templates write.
    """
    mask = settings.mask_token_id
    for candidate in (config.get("mask_token_id"), getattr(tokenizer, "mask_token_id", None)):
        mask = candidate if mask is None else mask
    if mask is None:
        raise UsageError(
            f"model.path={settings.path} names no mask token, neither in config.json nor in its tokenizer: "
            "set model.mask_token_id."
        )
    known = tokenizer.get_vocab()
    ends = [config.get("eos_token_id"), tokenizer.eos_token_id]
    ends += [known[name] for name in ("<|eot_id|>", "<|im_end|>") if name in known]
    flat = [token for end in ends for token in (end if isinstance(end, list) else [end]) if token is not None]
    if not flat:
        flat = [token for token in (tokenizer.sep_token_id,) if token is not None]
    if not flat:
        raise UsageError(
            f"model.path={settings.path} names no end-of-text token, neither in config.json nor in its tokenizer."
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else flat[0]
    if settings.chat_template and not tokenizer.chat_template:
        raise UsageError(
            f"model.path={settings.path} has no chat template: set model.chat_template=false to give prompts as they are."
        )
    return mask, tuple(dict.fromkeys(flat)), pad


def position_ids(attention_BL: Tensor) -> Tensor:
    """Positions that count real tokens only, so that a row's rotary angles do not depend on its padding."""
    return (attention_BL.cumsum(-1) - 1).clamp(min=0)


def bidirectional_forward(model: Any, shift: int, backbone: Any = None) -> Forward:
    """The forward pass of a native decoder class made bidirectional: backbone once, output head on wanted rows alone.

    shift: 1 where logits for position i are read at i − 1 (Dream), else 0. backbone: in place of the model's own.
    """
    backbone = backbone or model.model

    def forward(
        tokens_BL: Tensor, attention: Tensor, wanted_BL: Tensor, position_BL: Tensor | None = None, kept: Any = None
    ) -> Tensor:
        states = backbone(
            input_ids=tokens_BL,
            attention_mask=attention.long() if position_BL is None else additive(attention, model.dtype),
            position_ids=position_ids(attention) if position_BL is None else position_BL,
            past_key_values=kept,
            use_cache=kept is not None,
        ).last_hidden_state
        row_N, column_N = wanted_BL.nonzero().unbind(1)
        return model.lm_head(states[row_N, (column_N - shift).clamp(min=0)])

    return forward


def additive(visible_BLK: Tensor, dtype: torch.dtype) -> Tensor:
    """Who sees whom as the mask (B, 1, L, K) that is added to attention scores. Rows that see nothing (padding) see all."""
    blind = ~visible_BLK & visible_BLK.any(-1, keepdim=True)
    return torch.zeros(blind.shape, dtype=dtype, device=blind.device).masked_fill(blind, torch.finfo(dtype).min)[
        :, None
    ]


def check_bidirectional(denoiser: Denoiser) -> None:
    """Changing the last token must change the first logits; releases of transformers that ignore is_causal fail here."""
    tokens = torch.full((2, 8), denoiser.mask_id, device=denoiser.device)
    tokens[1, -1] = denoiser.eos_ids[0]
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[:, 1] = True
    with torch.inference_mode():
        logits = denoiser.logits(tokens, torch.ones_like(wanted), wanted)
    if torch.equal(logits[0], logits[1]):
        raise UsageError(
            "The model attends only backwards: this release of transformers ignores is_causal=False; install >= 5."
        )
