"""Model families, which say how weights are found and logits read; and the denoiser made from a family and weights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rws_cli.errors import UsageError, out_of_memory
from rws_cli.models.adapter import Adapter, read_adapter
from rws_cli.models.chat import messages, render, try_out
from rws_cli.models.checkpoint import Checkpoint, locate, native_config, read_config, reason
from rws_cli.models.families import check_family
from rws_cli.models.loading import (
    check_loads,
    check_vocabulary,
    differences,
    load_tokenizer,
    load_weights,
    pick_device,
    quiet,
)
from rws_cli.models.packed import pack_weights
from rws_cli.models.sharded import split_among
from rws_cli.models.tokens import find_tokens
from rws_cli.models.topology import FULL, Topology, block_numbers, visible
from rws_cli.part import Part, setting, settings

Forward = Callable[..., Tensor]
"""(tokens (B, L), attention (B, L), wanted (B, L)) → logits (N, V) at the wanted positions, in row-major order.

Attention may also be (B, L, K), for each query the keys that it sees; then a fourth argument gives positions (B, L), and a
fifth may be a transformers cache, with K keys in all. count: N, if known; else the device is waited for."""


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """A checkpoint without its weights.

    arguments: of from_pretrained, among them `config`, the native configuration. eos_ids: end tokens; the first one also
    fills a completion after its end. template_arguments: of the chat template. warning: where the checkpoint's own files
    differ from how it is used, None if nowhere. adapter: merged when weights are loaded.
    """

    path: str
    model_class: Any
    arguments: dict[str, Any]
    tokenizer: Any
    mask_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    chat_template: bool
    template_arguments: dict[str, Any] = field(default_factory=dict)
    topology: Topology = FULL
    warning: str | None = None
    adapter: Adapter | None = None

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens that the model has logits for."""
        return self.arguments["config"].get_text_config().vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and completion; 0 if the model states no limit."""
        return getattr(self.arguments.get("config"), "max_position_embeddings", None) or 0

    def encode(self, prompt: str, history: Iterable[tuple[str, str]] = (), **context: Any) -> list[int]:
        """Token ids of the conversation up to the place where the completion starts. context: as in `conversation`."""
        text, special = self.conversation(prompt, history, **context)
        return self.tokenizer(text, add_special_tokens=special).input_ids

    def conversation(
        self,
        prompt: str,
        history: Iterable[tuple[str, str]] = (),
        system: str = "",
        prefix: str = "",
        raw: bool = False,
    ) -> tuple[str, bool]:
        """The text that `encode` encodes, and whether the tokenizer adds its special tokens, as it does without a template.

        Without a chat template, turns are separated by an empty line. system: the system message. prefix: the beginning of
        the assistant's turn. raw: the prompt is the whole text.
        """
        turns = messages(prompt, history, prefix or None, system)
        if raw or not self.chat_template:
            return "\n\n".join(turn["content"] for turn in turns), True
        return self.rendered(turns), False

    def rendered(self, turns: list[dict[str, str]]) -> str:
        """Chat messages by the chat template, up to where the assistant's turn starts, or goes on if it is the last one."""
        options = (
            {"continue_final_message": True} if turns[-1]["role"] == "assistant" else {"add_generation_prompt": True}
        )
        return render(self.tokenizer, turns, "model", **self.template_arguments | options)

    def encode_choice(
        self, prompt: str, choice: str, history: Iterable[tuple[str, str]] = (), **context: Any
    ) -> tuple[list[int], list[int]]:
        """Token ids of the conversation, and of a continuation of it.

        Both are encoded as one text, which is cut after as many tokens as the conversation alone has. Without a chat
        template, spaces that end the prompt belong to the continuation: tokens of words begin with their space.
        """
        text, special = self.conversation(prompt, history, **context)
        if special:
            stripped = text.rstrip()
            text, choice = stripped, text[len(stripped) :] + choice
        both, before = self.tokenizer([text + choice, text], add_special_tokens=False).input_ids
        ids = both[len(before) :] or self.tokenizer(choice, add_special_tokens=False).input_ids
        return self.tokenizer(text, add_special_tokens=special).input_ids, ids


@dataclass(frozen=True, kw_only=True)
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

    def logits(
        self,
        tokens_BL: Tensor,
        attention_BL: Tensor,
        wanted_BL: Tensor,
        count: int | None = None,
        block_BL: Tensor | None = None,
    ) -> Tensor:
        """Logits (N, V), float32, at the wanted positions; padding (attention False) is not attended to.

        count: N. block_BL: the block of each column, if attention is by blocks; without it the columns are those of a prompt.
        A column of wanted_BL after the last one of tokens_BL stands for the token that follows.
        """
        if self.topology.block_size is None:
            return self.forward(tokens_BL, attention_BL, wanted_BL, count=count).float()
        if block_BL is None:
            block_BL = block_numbers(self.topology, attention_BL)
        sees_BLL = visible(block_BL, attention_BL)
        return self.forward(tokens_BL, sees_BLL, wanted_BL, position_ids(attention_BL), count=count).float()

    def attended(self, tokens_BL: Tensor, attention_BL: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """Logits (B·L, V), float32, at all positions, and attention weights (B, query, key), float32: the mean over the heads of
        the last `layers` layers. Only with model.attention=eager, which returns weights (DAWN, arXiv 2602.06953)."""
        weights: list[Tensor] = []
        hooks = [
            layer.self_attn.register_forward_hook(lambda module, inputs, out: weights.append(out[1].float().mean(1)))
            for layer in self.model.model.layers[-layers:]
        ]
        try:
            logits_NV = self.logits(tokens_BL, attention_BL, torch.ones_like(attention_BL), attention_BL.numel())
        finally:
            for hook in hooks:
                hook.remove()
        return logits_NV, torch.stack(weights).mean(0)

    def shadowed(
        self, tokens_BL: Tensor, attention_BL: Tensor, wanted_BL: Tensor, place_BK: Tensor, exists_BK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, V) as in `logits`, and the logits (B, K, V) of the shadows of K columns in each row.

        A shadow is a mask appended to the sequence, with the position of the column that it shadows. It sees the sequence
        except for that column, and all shadows; the sequence sees no shadow (WINO, arXiv 2507.18578). Where exists_BK is
        False there is no shadow.
        """
        (rows, length), count = tokens_BL.shape, place_BK.shape[1]
        shadows_BK = torch.full((rows, count), self.mask_id, device=tokens_BL.device)
        position_BL = position_ids(attention_BL)
        visible = torch.zeros(rows, length + count, length + count, dtype=torch.bool, device=tokens_BL.device)
        visible[:, :, :length] = attention_BL[:, None, :]
        visible[:, length:, :length].scatter_(2, place_BK[:, :, None], False)
        visible[:, length:, length:] = exists_BK[:, None, :]
        wanted_all = torch.cat([wanted_BL, torch.ones_like(exists_BK)], 1)
        logits = self.forward(
            torch.cat([tokens_BL, shadows_BK], 1),
            visible,
            wanted_all,
            torch.cat([position_BL, position_BL.gather(1, place_BK)], 1),
        ).float()
        is_shadow = wanted_all.nonzero()[:, 1] >= length
        return logits[~is_shadow], logits[is_shadow].view(rows, count, -1)

    def until_end(self, ids: list[int]) -> list[int]:
        """The ids before the first end token."""
        end = next((n for n, token in enumerate(ids) if token in self.eos_ids), len(ids))
        return ids[:end]

    def text(self, ids: list[int], masks: str = "drop") -> str:
        """The text before the first end token. masks: dropped ("drop"), or kept as the tokenizer writes them ("keep")."""
        ids = self.until_end(ids)
        if masks == "keep":
            return self.tokenizer.decode(ids, skip_special_tokens=False)
        return self.tokenizer.decode([token for token in ids if token != self.mask_id], skip_special_tokens=True)


@settings
class Model(Checkpoint, Part):
    """A masked diffusion model: settings of a checkpoint, and how its format is read."""

    name: str = setting("what tables and run folders call it")
    mask_token_id: int | None = setting("token id of the mask; null: the checkpoint's", None, min=0)
    chat_template: bool = setting("apply the chat template to prompts; false for base models", True)
    chat_template_arguments: dict[str, Any] = setting(
        "further arguments of the chat template, e.g. {enable_thinking: false}", default_factory=dict
    )
    adapter: str | None = setting("a LoRA adapter to merge (needs peft): a folder, or a name on the hub", None)

    role = "model"
    shift: ClassVar[int] = 0
    """1 if logits for position i are read at i − 1."""
    native: ClassVar[bool] = False
    """Whether it is a native decoder with this module's `forward`, which can be cached, compiled and split among ranks."""
    without_shadows: ClassVar[Any] = "forward pass knows no shadows"
    """Why `Denoiser.shadowed` does not work, None if it does."""

    @property
    def topology(self) -> Topology:
        """Which tokens attend to which."""
        return FULL

    def tokenizer_class(self) -> Any:
        raise NotImplementedError

    def weights(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The model's class and the arguments of from_pretrained, from config.json. Without a `config` among the arguments,
        transformers reads config.json itself. Raises UsageError if the checkpoint is not of this family."""
        raise NotImplementedError

    def forward(self, model: Any) -> Forward:
        """The forward pass of a loaded model."""
        return bidirectional_forward(model, self.shift)

    def check(self, key: str = "model") -> None:
        prepared = self.prepare()
        check_loads(prepared.model_class, prepared.path, self, key, **prepared.arguments)
        if prepared.adapter:
            prepared.adapter.check_class(prepared.model_class, prepared.arguments["config"])

    def prepare(self) -> PreparedModel:
        """Find and read the checkpoint without its weights. Raises UsageError for what is missing or does not fit."""
        pick_device(self.device, "model.device")
        path, named = locate(self.path, "model.path"), f"model.path={self.path}"
        config = read_config(path, self.revision, "model.path")
        if not self.trust_remote_code:
            check_family(self.kind, config, named)
        with quiet():
            try:
                model_class, arguments = self.weights(config)
            except UsageError:
                raise
            except KeyError as error:
                raise UsageError(f"{named} has a config.json without {error.args[0]}.") from error
            except Exception as error:
                raise UsageError(f"{named} has a config.json that describes no model: {reason(error)}") from error
            if "config" not in arguments:
                arguments["config"] = native_config(path, self.revision, "model.path", self.trust_remote_code)
            tokenizer = load_tokenizer(self.tokenizer_class(), path, self, "model")
        vocabulary = check_vocabulary(arguments["config"], tokenizer, named)
        mask_id, eos_ids, pad_id = find_tokens(self, config, tokenizer, vocabulary)
        if self.chat_template:
            try_out(tokenizer, "model")
        return PreparedModel(
            path=path,
            model_class=model_class,
            arguments=arguments,
            tokenizer=tokenizer,
            mask_id=mask_id,
            eos_ids=eos_ids,
            pad_id=pad_id,
            chat_template=self.chat_template,
            template_arguments=self.chat_template_arguments,
            topology=self.topology,
            warning=differences(self, path, tokenizer, arguments["config"], eos_ids),
            adapter=read_adapter(self.adapter, config, arguments.get("key_mapping")),
        )

    def load(self, prepared: PreparedModel | None = None, ranks: int = 1) -> Denoiser:
        """Load the weights, or this rank's part of them. Raises UsageError as `prepare` does, if weights do not fit, or if
        their quantization does not run on the device."""
        prepared = prepared or self.prepare()
        arguments = prepared.arguments | split_among(ranks)
        model, device = load_weights(prepared.model_class, prepared.path, self, "model", **arguments)
        if prepared.adapter is not None:
            prepared.adapter.merge(model)
        denoiser = Denoiser(**vars(prepared), model=model, forward=self.forward(model), device=device, shift=self.shift)
        if self.topology.block_size is not None and ranks == 1:
            pack_weights(model)
        try:
            check_attention(denoiser)
        except RuntimeError as error:
            if self.quantization == "none" or out_of_memory(error):
                raise
            raise UsageError(
                f"model.quantization={self.quantization} does not run on {device}: {reason(error)}"
            ) from error
        return denoiser


def positions(wanted_BL: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """Rows and columns (N,) of the true entries, in row-major order. count: N; None: wait for the device to count."""
    if count is None:
        row_N, column_N = wanted_BL.nonzero().unbind(1)
        return row_N, column_N
    place_N = wanted_BL.flatten().to(torch.int8).argsort(descending=True, stable=True)[:count]
    return place_N // wanted_BL.shape[1], place_N % wanted_BL.shape[1]


def position_ids(attention_BL: Tensor) -> Tensor:
    """Position ids without padding, so that rotary angles do not depend on it."""
    return (attention_BL.cumsum(-1) - 1).clamp(min=0)


def bidirectional_forward(model: Any, shift: int, backbone: Any = None) -> Forward:
    """The forward pass of a native decoder made bidirectional, with the output head at wanted positions only.

    shift: 1 if logits for position i are read at i − 1 (Dream), else 0. backbone: in place of the model's own.
    """
    backbone = backbone or model.model

    def forward(
        tokens_BL: Tensor,
        attention: Tensor,
        wanted_BL: Tensor,
        position_BL: Tensor | None = None,
        cache: Any = None,
        count: int | None = None,
    ) -> Tensor:
        states = backbone(
            input_ids=tokens_BL,
            attention_mask=attention.long() if position_BL is None else additive(attention, model.dtype),
            position_ids=position_ids(attention) if position_BL is None else position_BL,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        row_N, column_N = positions(wanted_BL, count)
        return model.lm_head(states[row_N, (column_N - shift).clamp(min=0)])

    return forward


def additive(visible_BLK: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask (B, 1, L, K) added to attention scores, from what each query sees. One that sees nothing (padding) sees all."""
    blind = ~visible_BLK & visible_BLK.any(-1, keepdim=True)
    return torch.zeros(blind.shape, dtype=dtype, device=blind.device).masked_fill(blind, torch.finfo(dtype).min)[
        :, None
    ]


def check_attention(denoiser: Denoiser) -> None:
    """Compare the model's attention with its topology. Raises UsageError if a token does not reach the first one of its
    block, if a later block reaches an earlier one, or an earlier block does not reach a later one."""
    size, shift = denoiser.topology.block_size, denoiser.shift
    width = size or 8
    length = width if size is None else 2 * width
    tokens = torch.full((3, length), denoiser.eos_ids[0], device=denoiser.device)
    other = 0 if denoiser.eos_ids[0] else 1
    tokens[1, width - 1], tokens[2, -1] = other, other
    wanted = torch.zeros((3, length + shift), dtype=torch.bool, device=denoiser.device)
    wanted[:, [shift, length - width + shift]] = True  # the first token of the first and of the last block is read
    block = (torch.arange(length, device=denoiser.device) // width).expand(3, -1)
    blocks: dict[str, Any] = {"block_BL": block} if size else {}
    with torch.inference_mode():
        logits = denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), wanted, **blocks)
    first, last = logits.view(3, -1, logits.shape[-1])[:, 0], logits.view(3, -1, logits.shape[-1])[:, -1]
    if torch.equal(first[0], first[1]) and width > 1:
        raise UsageError(
            "The model attends only backward: this release of transformers ignores is_causal=False; install >= 5."
        )
    leaks = (first[0] - first[2]).abs().max() > 1e-3 * first[0].abs().max()
    if size is not None and (leaks or torch.equal(last[0], last[1])):
        raise UsageError(
            f"The model does not attend by blocks of {size}: this release of transformers ignores the attention mask."
        )


@settings
class BlockModel(Model):
    """A block diffusion model: a token attends to its own block and to earlier ones."""

    block_size: int | None = setting("tokens per block of attention; null: all tokens attend to all", None, min=1)

    native = True
    anchor: ClassVar[str] = "sequence"
    """Where blocks are counted from; see Topology."""
    first_token: ClassVar[bool] = False
    """Whether a block's first token is predicted from the blocks before it alone."""

    @property
    def without_shadows(self) -> str | None:
        return "tokens attend only to their own block and earlier ones" if self.block_size else None

    @property
    def topology(self) -> Topology:
        return Topology(self.block_size, self.anchor, self.first_token)
