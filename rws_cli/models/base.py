"""What a model family is: it says how weights are found and logits are read; and the denoiser that comes of both."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli.errors import UsageError, out_of_memory
from rws_cli.models.chat import messages, render, try_out
from rws_cli.models.checkpoint import Checkpoint, locate, native_config, read_config, reason
from rws_cli.models.loading import check_loads, check_vocabulary, load_tokenizer, load_weights, pick_device, quiet
from rws_cli.models.sharded import split_among
from rws_cli.part import Part, setting, settings

Forward = Callable[..., Tensor]
"""(tokens (B, L), attention (B, L), wanted (B, L)) → logits (N, V) at the wanted positions, in row-major order. Where
`attention` is (B, L, K), who sees whom, a fourth argument gives positions (B, L); a fifth is a cache of transformers,
which makes K of L. count: N, if the caller knows it; otherwise the device is waited for."""


@dataclass(frozen=True)
class PreparedModel:
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
class Denoiser(PreparedModel):
    """A checkpoint with its weights."""

    model: Any
    forward: Forward
    device: torch.device
    shift: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes logits in."""
        return self.model.dtype

    def logits(self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, count: int | None = None) -> Tensor:
        """Logits (N, V), float32, at the wanted positions; padding (attention False) is not attended to. count: N."""
        return self.forward(tokens_BL, attention_BL, wanted_BL, count=count).float()

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


@settings
class Model(Checkpoint, Part):
    """A masked diffusion model: settings of a checkpoint, and how its format is read."""

    name: str = setting("what tables and run folders call it")
    mask_token_id: int | None = setting("the mask's token id; null: as the checkpoint says", None, min=0)
    chat_template: bool = setting(
        "whether prompts go through the chat template; false: as they are, for base models", True
    )

    role = "model"
    shift: ClassVar[int] = 0
    """1 where logits for position i are read at i − 1."""
    native: ClassVar[bool] = False
    """Whether `forward` is this module's, of a class of transformers: then it can be cached, compiled and shared by ranks."""
    without_shadows: ClassVar[str | None] = "forward pass knows no shadows"
    """Why `Denoiser.shadowed` does not work, None if it does."""

    def tokenizer_class(self) -> Any:
        raise NotImplementedError

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The model's class and the arguments of from_pretrained, from config.json; without a `config` among them it is as
        transformers reads config.json. Raises UsageError where the checkpoint is not of this family."""
        raise NotImplementedError

    def forward(self, model: Any) -> Forward:
        """The forward pass of a loaded model."""
        return bidirectional_forward(model, self.shift)

    def check(self, at: str = "model") -> None:
        prepared = self.prepare()
        check_loads(prepared.model_class, prepared.path, self, at, **prepared.arguments)

    def prepare(self) -> PreparedModel:
        """Find and read the checkpoint, weights apart. Raises UsageError for whatever is missing or does not fit."""
        pick_device(self.device, "model.device")
        path, at = locate(self.path, "model.path"), f"model.path={self.path}"
        config = read_config(path, self.revision, "model.path")
        with quiet():
            try:
                model_class, arguments = self.weights(config)
            except UsageError:
                raise
            except KeyError as error:
                raise UsageError(f"{at} has a config.json without {error.args[0]}.") from error
            except Exception as error:
                raise UsageError(f"{at} has a config.json that describes no model: {reason(error)}") from error
            if "config" not in arguments:
                arguments["config"] = native_config(path, self.revision, "model.path", self.trust_remote_code)
            tokenizer = load_tokenizer(self.tokenizer_class(), path, self, "model")
        vocabulary = check_vocabulary(arguments["config"], tokenizer, at)
        mask_id, eos_ids, pad_id = find_tokens(self, config, tokenizer, vocabulary)
        if self.chat_template:
            try_out(tokenizer, "model")
        return PreparedModel(path, model_class, arguments, tokenizer, mask_id, eos_ids, pad_id, self.chat_template)

    def load(self, prepared: PreparedModel | None = None, ranks: int = 1) -> Denoiser:
        """Load the weights, or this rank's part of them. Raises UsageError as `prepare` does, if weights do not fit, or if
        they do not run in as few bits as they should."""
        prepared = prepared or self.prepare()
        arguments = prepared.arguments | split_among(ranks)
        model, device = load_weights(prepared.model_class, prepared.path, self, "model", **arguments)
        denoiser = Denoiser(**vars(prepared), model=model, forward=self.forward(model), device=device, shift=self.shift)
        try:
            check_bidirectional(denoiser)
        except RuntimeError as error:
            if self.quantization == "none" or out_of_memory(error):
                raise
            raise UsageError(
                f"model.quantization={self.quantization} does not run on {device}: {reason(error)}"
            ) from error
        return denoiser


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


def positions(wanted_BL: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """Rows and columns (N,) of the true entries, in row-major order. count: N; None: the device is waited for."""
    if count is None:
        row_N, column_N = wanted_BL.nonzero().unbind(1)
        return row_N, column_N
    place_N = wanted_BL.flatten().to(torch.int8).argsort(descending=True, stable=True)[:count]
    return place_N // wanted_BL.shape[1], place_N % wanted_BL.shape[1]


def position_ids(attention_BL: Tensor) -> Tensor:
    """Positions that count real tokens only, so that a row's rotary angles do not depend on its padding."""
    return (attention_BL.cumsum(-1) - 1).clamp(min=0)


def bidirectional_forward(model: Any, shift: int, backbone: Any = None) -> Forward:
    """The forward pass of a native decoder class made bidirectional: backbone once, output head on wanted rows alone.

    shift: 1 where logits for position i are read at i − 1 (Dream), else 0. backbone: in place of the model's own.
    """
    backbone = backbone or model.model

    def forward(
        tokens_BL: Tensor,
        attention: Tensor,
        wanted_BL: Tensor,
        position_BL: Tensor | None = None,
        kept: Any = None,
        count: int | None = None,
    ) -> Tensor:
        states = backbone(
            input_ids=tokens_BL,
            attention_mask=attention.long() if position_BL is None else additive(attention, model.dtype),
            position_ids=position_ids(attention) if position_BL is None else position_BL,
            past_key_values=kept,
            use_cache=kept is not None,
        ).last_hidden_state
        row_N, column_N = positions(wanted_BL, count)
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
