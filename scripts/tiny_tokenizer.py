"""The bundled models' tokenizer: the words, numbers and cells of the two benchmarks, lossless.

A token carries the space before it, so that decoding is joining. A number behind a space is one token; digits without
a space are one each (a sudoku's answer). Run through train_mdm.py.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rws_cli.benchmarks import arithmetic, sudoku

SPECIAL = ["<|endoftext|>", "<|startoftext|>", "<|mdm_mask|>", "<|unknown|>", "<|user|>", "<|assistant|>"]
TOKEN = r" ?[a-f][1-6]=[1-6_]| ?[A-Za-z]+| ?#+| \d\d?(?!\d)|\d| ?[^\sA-Za-z0-9]|\s"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def vocabulary() -> list[str]:
    cells = [f" {name}={value}" for name in sudoku.NAMES for value in "123456" + sudoku.BLANK]
    phrases = [phrase.format("") for options in arithmetic.PHRASES.values() for phrase in options]
    words = [f" {word}" for word in " ".join([*arithmetic.THINGS, *phrases, "has how many now"]).split()]
    signs = [",", ".", "?", " +", " -", " *", " /", " =", " ####"]
    numbers = [*"0123456789", *(f" {n}" for n in range(arithmetic.HIGH + 1))]
    return list(dict.fromkeys([*SPECIAL, *numbers, *signs, *arithmetic.PEOPLE, "so", *words, "sudoku", *cells]))


def build() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(vocabulary())}, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        mask_token="<|mdm_mask|>",
        unk_token="<|unknown|>",
        extra_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
