"""The tokens of a model that decoding treats apart: the mask, end tokens and padding."""

from typing import Any

from rws_cli.errors import UsageError

MASKS = ("<|MASK|>", "<|mask|>", "|<MASK>|")
"""Tokens that are the mask where neither config.json nor the tokenizer says which one is."""
ENDS = ("<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|role_end|>")
"""Tokens that end a text, or a turn of a chat template."""


def find_tokens(
    settings: Any, config: dict[str, Any], tokenizer: Any, vocabulary: int
) -> tuple[int, tuple[int, ...], int]:
    """Ids of the mask, end tokens and padding: from the settings, else the checkpoint, else the tokenizer.

    End tokens are the end of text and those of ENDS that the tokenizer has. Raises UsageError if an id is missing or not a
    token of the model, or if the mask is an end token.
    """
    named, token_ids = f"model.path={settings.path}", tokenizer.get_vocab()

    def checked(token: Any, source: str) -> int:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise UsageError(
                f"{source} is {token!r}, but token ids of this model are the whole numbers to {vocabulary - 1}."
            )
        return token

    masks = [
        (settings.mask_token_id, "model.mask_token_id"),
        (config.get("mask_token_id"), f"{named}: mask_token_id in config.json"),
        (getattr(tokenizer, "mask_token_id", None), f"{named}: the tokenizer's mask token"),
        *((token_ids[name], f"{named}: {name}") for name in MASKS if name in token_ids),
    ]
    mask = next((checked(*candidate) for candidate in masks if candidate[0] is not None), None)
    if settings.topology.block_size == 1:
        mask = vocabulary  # no pass reads a mask: an id after the vocabulary stands for what is not decoded yet
    if mask is None:
        raise UsageError(
            f"{named} names no mask token, neither in config.json nor in its tokenizer: set model.mask_token_id."
        )
    stated = config.get("eos_token_id")
    ends = [
        (token, f"{named}: eos_token_id in config.json") for token in (stated if isinstance(stated, list) else [stated])
    ]
    ends.append((tokenizer.eos_token_id, f"{named}: the tokenizer's end token"))
    ends += [(token_ids[name], f"{named}: {name}") for name in ENDS if name in token_ids]
    eos_ids = [checked(*end) for end in ends if end[0] is not None]
    if not eos_ids and tokenizer.sep_token_id is not None:
        eos_ids = [checked(tokenizer.sep_token_id, f"{named}: the tokenizer's separator")]
    if not eos_ids:
        raise UsageError(f"{named} names no end-of-text token, neither in config.json nor in its tokenizer.")
    if mask in eos_ids:
        raise UsageError(
            f"{named}: token {mask} is the mask and also an end token: set model.mask_token_id to the mask's own id."
        )
    pad = (
        eos_ids[0] if tokenizer.pad_token_id is None else checked(tokenizer.pad_token_id, f"{named}: the padding token")
    )
    if settings.chat_template and not tokenizer.chat_template:
        raise UsageError(f"{named} has no chat template: set model.chat_template=false to use prompts as they are.")
    return mask, tuple(dict.fromkeys(eos_ids)), pad
