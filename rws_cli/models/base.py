"""What every family shares: device and dtype, the tokenizer, and the checks after loading."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rws_cli.benchmarks.base import messages
from rws_cli.config.schema import Checkpoint, Model
from rws_cli.errors import UsageError, out_of_memory
from rws_cli.models.chat import render, try_out
from rws_cli.models.checkpoint import (
    loading_failure,
    locate,
    native_config,
    read_config,
    reason,
    stored_shapes,
    weight_files,
)
from rws_cli.models.sharded import split_among

Forward = Callable[..., Tensor]
"""(tokens (B, L), attention (B, L), wanted (B, L)) → logits (N, V) at the wanted positions, in row-major order. Where
`attention` is (B, L, K), who sees whom, a fourth argument gives positions (B, L); a fifth is a cache of transformers,
which makes K of L."""


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    tokenizer: its tokenizer class. weights: its model class and the arguments of from_pretrained, from config.json and
    the path to name in errors; without a `config` among them it is as transformers reads config.json. forward: its
    forward pass. shift: 1 where logits for position i are read at i − 1.
    """

    tokenizer: Callable[[], Any]
    weights: Callable[[dict[str, Any], str], tuple[Any, dict[str, Any]]]
    forward: Callable[[Any], Forward]
    shift: int = 0


@dataclass(frozen=True)
class Prepared:
    """All of a checkpoint but its weights. arguments: of from_pretrained, the configuration that transformers knows among
    them. eos_ids: tokens that end an answer, the one that pads it first."""

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
        return self.arguments["config"].get_text_config().vocab_size

    def encode(self, prompt: str, history: Iterable[tuple[str, str]] = ()) -> list[int]:
        """Token ids of a user's turn and those before it, as far as the place where the answer starts.

        Without a chat template the turns stand one below the other, an empty line between them.
        """
        spoken = messages(prompt, history)
        if not self.chat_template:
            return self.tokenizer("\n\n".join(message["content"] for message in spoken)).input_ids
        text = render(self.tokenizer, spoken, "model", add_generation_prompt=True)
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
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, place_BK: Tensor, exists_BK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, V) as `logits` has them, and for each of K columns of each row those of its shadow (B, K, V).

        A shadow is a mask that stands at its position's place behind the sequence. It sees the sequence but for that
        position, and all shadows; the sequence sees no shadow (WINO, arXiv 2507.18578). Where exists_BK is False there is
        none.
        """
        (rows, length), count = tokens_BL.shape, place_BK.shape[1]
        shadows_BK = torch.full((rows, count), self.mask_id, device=tokens_BL.device)
        position_BL = position_ids(attention_BL)
        visible = torch.zeros(rows, length + count, length + count, dtype=torch.bool, device=tokens_BL.device)
        visible[:, :, :length] = attention_BL[:, None, :]
        visible[:, length:, :length].scatter_(2, place_BK[:, :, None], False)
        visible[:, length:, length:] = exists_BK[:, None, :]
        everyone = torch.cat([wanted_BL, torch.ones_like(exists_BK)], 1)
        logits = self.forward(
            torch.cat([tokens_BL, shadows_BK], 1),
            visible,
            everyone,
            torch.cat([position_BL, position_BL.gather(1, place_BK)], 1),
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
    at = f"model.path={settings.path}"
    with quiet():
        try:
            model_class, arguments = family.weights(config, settings.path)
        except UsageError:
            raise
        except KeyError as error:
            raise UsageError(f"{at} has a config.json without {error.args[0]}.") from error
        except Exception as error:
            raise UsageError(f"{at} has a config.json that describes no model: {reason(error)}") from error
        if "config" not in arguments:
            trusted = settings.trust_remote_code
            arguments["config"] = native_config(path, settings.revision, "model.path", trusted)
        tokenizer = load_tokenizer(family.tokenizer(), path, settings, "model")
    vocabulary = check_vocabulary(arguments["config"], tokenizer, at)
    mask_id, eos_ids, pad_id = find_tokens(settings, config, tokenizer, vocabulary)
    if settings.chat_template:
        try_out(tokenizer, "model")
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
        raise UsageError(
            f"model.quantization={settings.quantization} does not run on {device}: {reason(error)}"
        ) from error
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
    auto_class: Any, path: str, settings: Checkpoint, key: str, **arguments: Any
) -> tuple[Any, torch.device]:
    """from_pretrained with this project's rules: safetensors only, every weight found, none left over.

    Raises UsageError naming `key` (model or reward) and what is wrong with the checkpoint.
    """
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    device = pick_device(settings.device, f"{key}.device")
    weight_files(path, settings.revision, f"{key}.path", download=True)
    if settings.device_map is not None:
        arguments["device_map"] = settings.device_map
    if settings.quantization != "none":
        arguments["quantization_config"] = quantization(settings.quantization, key)
        arguments.setdefault("device_map", {"": device})  # it places what it quantizes itself
    with quiet(), failures_named(settings, key):
        model, report = auto_class.from_pretrained(
            path,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            dtype=pick_dtype(settings.dtype, device),
            attn_implementation=settings.attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **arguments,
        )
    check_report(report, type(model).__name__, f"{key}.path={settings.path}")
    model.eval().requires_grad_(False)
    if "device_map" not in arguments:
        model.to(device)
    return model, next(model.parameters()).device


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that transformers logs of what is then said in one sentence."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def failures_named(settings: Checkpoint, key: str) -> Iterator[None]:
    """Turn whatever transformers raises while it loads a checkpoint into a UsageError that names the key and the path."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        of_safetensors = type(error).__module__.split(".")[0] == "safetensors" or "Safetensor" in type(error).__name__
        hint = " (a corrupt or partial file?)" if of_safetensors else ""
        raise UsageError(f"{key}.path={settings.path} cannot be loaded: {loading_failure(error, key)}{hint}") from error


def check_report(report: dict[str, Any], model: str, at: str) -> None:
    """Raises UsageError if weights are missing, left over, or of another shape than the model's."""
    mismatched = []
    for name, stored, wanted in report.get("mismatched_keys") or []:
        if wanted[0] == 1 and stored[1:] == wanted[1:]:  # the head of a reward, the one weight with a row a label
            raise UsageError(f"{at} has {stored[0]} labels; a reward has one.")
        mismatched.append(f"{name} ({list(stored)} in the file, {list(wanted)} by config.json)")
    found = {word: report.get(f"{word}_keys") or [] for word in ("missing", "unexpected")} | {"mismatched": mismatched}
    for word, names in found.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UsageError(f"{at} does not fit {model}: {word} weights {', '.join(sorted(names)[:3])}{more}.")


def check_loads(model_class: Any, path: str, settings: Checkpoint, key: str, **arguments: Any) -> None:
    """Hold the headers of a checkpoint's weights against its class and config.json, without reading or making a weight.

    Raises UsageError as load_weights would. What a checkpoint's own Python makes is not looked at, nor are the shapes of
    weights that are stored quantized.
    """
    if settings.trust_remote_code:
        return
    from transformers.utils import logging

    files = weight_files(path, settings.revision, f"{key}.path")
    stored = stored_shapes(files) if files else {}
    config, attention = arguments["config"], settings.attention
    logging.disable_progress_bar()
    with quiet(), failures_named(settings, key):
        if hasattr(model_class, "from_config"):  # one of the Auto classes
            with torch.device("meta"):
                native = model_class.from_config(
                    copy.deepcopy(config), trust_remote_code=False, attn_implementation=attention
                )
            model_class = type(native)
        if getattr(config, "quantization_config", None) is not None:
            return
        _, report = model_class.from_pretrained(
            None,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in stored.items()},
            device_map="meta",
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **arguments,
        )
    if stored:
        check_report(report, model_class.__name__, f"{key}.path={settings.path}")


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


def load_tokenizer(auto_class: Any, path: str, settings: Checkpoint, key: str) -> Any:
    try:
        return auto_class.from_pretrained(
            path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:
        raise UsageError(
            f"{key}.path={settings.path} has no tokenizer that can be loaded: {loading_failure(error, key)}"
        ) from error


def check_vocabulary(config: Any, tokenizer: Any, at: str) -> int:
    """The number of tokens that the model knows. Raises UsageError if the tokenizer has ids beyond them."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    if type(size) is not int or size < 1:
        raise UsageError(f"{at} has a config.json whose vocabulary has {size} tokens.")
    known = tokenizer.get_vocab()
    if beyond := [token for token, number in known.items() if number >= size]:
        raise UsageError(
            f"{at} has a tokenizer with {len(known)} tokens, {len(beyond)} of them beyond the model's vocabulary of {size}, "
            f"such as {beyond[0]!r} ({known[beyond[0]]}): they do not belong together."
        )
    return size


def find_tokens(
    settings: Model, config: dict[str, Any], tokenizer: Any, vocabulary: int
) -> tuple[int, tuple[int, ...], int]:
    """Mask, end and padding ids: the settings' word first, then the checkpoint's, then the tokenizer's.

    End tokens are the end of text and, where the tokenizer has one, the end of turn that chat templates write. Raises
    UsageError if one is missing, is no token of the model, or if the mask is an end token.
    """
    at, known = f"model.path={settings.path}", tokenizer.get_vocab()

    def checked(token: Any, source: str) -> int:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise UsageError(
                f"{source} is {token!r}, but token ids of this model are the whole numbers to {vocabulary - 1}."
            )
        return token

    masks = [
        (settings.mask_token_id, "model.mask_token_id"),
        (config.get("mask_token_id"), f"{at}: mask_token_id in config.json"),
        (getattr(tokenizer, "mask_token_id", None), f"{at}: the tokenizer's mask token"),
    ]
    mask = next((checked(*candidate) for candidate in masks if candidate[0] is not None), None)
    if mask is None:
        raise UsageError(
            f"{at} names no mask token, neither in config.json nor in its tokenizer: set model.mask_token_id."
        )
    stated = config.get("eos_token_id")
    ends = [
        (token, f"{at}: eos_token_id in config.json") for token in (stated if isinstance(stated, list) else [stated])
    ]
    ends.append((tokenizer.eos_token_id, f"{at}: the tokenizer's end token"))
    ends += [(known[name], f"{at}: {name}") for name in ("<|eot_id|>", "<|im_end|>") if name in known]
    eos_ids = [checked(*end) for end in ends if end[0] is not None]
    if not eos_ids and tokenizer.sep_token_id is not None:
        eos_ids = [checked(tokenizer.sep_token_id, f"{at}: the tokenizer's separator")]
    if not eos_ids:
        raise UsageError(f"{at} names no end-of-text token, neither in config.json nor in its tokenizer.")
    if mask in eos_ids:
        raise UsageError(
            f"{at}: token {mask} is the mask and also ends an answer: set model.mask_token_id to the mask's own id."
        )
    pad = eos_ids[0] if tokenizer.pad_token_id is None else checked(tokenizer.pad_token_id, f"{at}: the padding token")
    if settings.chat_template and not tokenizer.chat_template:
        raise UsageError(f"{at} has no chat template: set model.chat_template=false to give prompts as they are.")
    return mask, tuple(dict.fromkeys(eos_ids)), pad


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
