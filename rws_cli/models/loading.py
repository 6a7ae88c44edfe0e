"""Loads checkpoints through transformers, with checks before and after."""

import copy
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rws_cli.errors import UsageError
from rws_cli.models.checkpoint import Checkpoint, loading_failure, stated_ends, stored_shapes, weight_files

# transformers replaces PreTrainedModel.tie_weights and other functions while it creates a model, then restores what it
# found: two threads that load at once can leave a replacement in place for good.
LOADING = threading.RLock()


def pick_device(name: str, key: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{key}={name} is not a device: use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"{key}={name} is not available: torch {torch.__version__} finds no CUDA device; use {key}=cpu."
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """auto: float32 on a CPU, where half precision is slow and memory is plentiful; elsewhere as stored."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, name)


def load_weights(
    auto_class: Any, path: str, settings: Checkpoint, key: str, **arguments: Any
) -> tuple[Any, torch.device]:
    """from_pretrained, from safetensors only; every weight must be found, and none left over.

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
        arguments.setdefault("device_map", {"": device})  # quantized weights are placed while they load
    elif device.type != "cpu" and not {"distributed_config", "tp_plan"} & arguments.keys():
        arguments.setdefault("device_map", {"": device})  # so are others, without a copy in the host's memory
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
    """Load in one thread at a time, without transformers' warnings about problems that rws reports itself."""
    from transformers.utils import logging

    with LOADING:
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


@contextmanager
def failures_named(settings: Checkpoint, key: str) -> Iterator[None]:
    """Turn errors of transformers while it loads a checkpoint into a UsageError that names the key and the path."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        of_safetensors = type(error).__module__.split(".")[0] == "safetensors" or "Safetensor" in type(error).__name__
        hint = " (a corrupt or partial file?)" if of_safetensors else ""
        raise UsageError(f"{key}.path={settings.path} cannot be loaded: {loading_failure(error, key)}{hint}") from error


def check_report(report: dict[str, Any], model: str, named: str) -> None:
    """Raises UsageError if weights are missing, left over, or of the wrong shape."""
    mismatched = []
    for name, stored, wanted in report.get("mismatched_keys") or []:
        if wanted[0] == 1 and stored[1:] == wanted[1:]:  # the head of a reward, the only weight with a row per label
            raise UsageError(f"{named} has {stored[0]} labels; a reward has one.")
        mismatched.append(f"{name} ({list(stored)} in the file, {list(wanted)} by config.json)")
    found = {word: report.get(f"{word}_keys") or [] for word in ("missing", "unexpected")} | {"mismatched": mismatched}
    for word, names in found.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UsageError(f"{named} does not fit {model}: {word} weights {', '.join(sorted(names)[:3])}{more}.")


def check_loads(model_class: Any, path: str, settings: Checkpoint, key: str, **arguments: Any) -> None:
    """Compare the headers of a checkpoint's weights with its class and config.json, without reading or creating weights.

    Raises UsageError as load_weights would. Models of a checkpoint's own Python are not checked, nor are the shapes of
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
    """The configuration with which transformers quantizes while loading. Raises UsageError without bitsandbytes."""
    import logging
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UsageError(f"{key}.quantization={bits} needs bitsandbytes: pip install 'rws[quantized]'.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about rounding at every layer
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


def check_vocabulary(config: Any, tokenizer: Any, named: str) -> int:
    """The size of the model's vocabulary. Raises UsageError if the tokenizer has ids beyond it."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    if type(size) is not int or size < 1:
        raise UsageError(f"{named} has a config.json whose vocabulary has {size} tokens.")
    token_ids = tokenizer.get_vocab()
    if beyond := [token for token, number in token_ids.items() if number >= size]:
        raise UsageError(
            f"{named} has a tokenizer with {len(token_ids)} tokens, {len(beyond)} of them beyond the model's vocabulary of {size}, "
            f"such as {beyond[0]!r} ({token_ids[beyond[0]]}): they do not belong together."
        )
    return size


def differences(settings: Any, path: str, tokenizer: Any, config: Any, eos_ids: tuple[int, ...]) -> str | None:
    """A line about what the files of a model's checkpoint state otherwise than it is used: end tokens in
    generation_config.json, a shorter context in the tokenizer, a chat template that is left out. None if nothing.

    settings: of the model; config: its native configuration.
    """
    length, limit = tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
    parts = []
    if more := [token for token in stated_ends(path, settings.revision) if token not in eos_ids]:
        parts.append(f"generation_config.json has end tokens {more}, which do not end completions here")
    if limit and length < limit:
        parts.append(f"its tokenizer states a context of {length} tokens, config.json {limit}")
    if tokenizer.chat_template and not settings.chat_template:
        parts.append("it has a chat template, which model.chat_template=false leaves out")
    return f"warning: model.path={settings.path}: {'; '.join(parts)}" if parts else None
