"""Finds checkpoints, and reads everything in them but the weights."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rws_cli.config.catalog import ASSETS, BUNDLED
from rws_cli.errors import UsageError, choose_from
from rws_cli.files import user_path
from rws_cli.part import setting, settings

CONFIG, ADAPTER = "config.json", "adapter_config.json"
DTYPES = ("auto", "float32", "bfloat16", "float16")

PIECES, PIECE = 64, 1 << 18
"""The number of pieces of a large file that are hashed, and their size in bytes."""


@settings
class Weights:
    """Where weights are, and on which device and in which dtype they compute."""

    path: str = setting('a folder, "bundled:NAME", or a name on the Hugging Face hub')
    revision: str | None = setting("branch, tag or commit on the hub; null: the newest", None)
    dtype: str = setting("dtype of the weights; auto: as stored on a GPU, float32 on a CPU", "auto", choices=DTYPES)
    device: str = setting("auto (cuda if available, else cpu), cpu, cuda or cuda:N", "auto")


@settings
class Checkpoint(Weights):
    """Weights that transformers loads."""

    device_map: str | None = setting(
        "e.g. auto, to spread a large model over devices (needs accelerate); null: all on `device`", None
    )
    attention: str = setting("attention kernel", "sdpa", choices=("sdpa", "eager", "flash_attention_2"))
    trust_remote_code: bool = setting(
        "run the checkpoint's own Python; `revision` must then be a full commit hash", False
    )
    quantization: str = setting(
        "8 or 4 bits per weight, by bitsandbytes; fast only on a GPU", "none", choices=("none", "8bit", "4bit")
    )

    def mistakes(self, key: str) -> Iterator[str]:
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            yield (
                f"{key}.trust_remote_code=true runs Python from {self.path}: pin it with {key}.revision=<the full 40-digit "
                "commit hash>."
            )

    def check(self, key: str) -> None:
        """Raises UsageError if it cannot be loaded, without reading weights. key: the key of its settings."""


def checkpoints(node: Any, key: str) -> dict[str, Any]:
    """All settings of weights in a part and the parts that it is made of, by key. key: the key of the part."""
    if isinstance(node, Weights):
        return {key: node}
    within: Any = node if isinstance(node, dict) else {}
    if is_dataclass(node):
        within = {f.name: getattr(node, f.name) for f in fields(node)}
    return {k: weights for name, part in within.items() for k, weights in checkpoints(part, f"{key}.{name}").items()}


def locate(path: str, key: str) -> str:
    """The local folder of "bundled:NAME" or a path; a hub name is returned unchanged.

    Raises UsageError naming `key` if a folder or bundled name does not exist.
    """
    if path.startswith(BUNDLED):
        folder = ASSETS / path.removeprefix(BUNDLED)
        if not (folder / CONFIG).is_file():
            names = sorted(BUNDLED + p.parent.name for p in ASSETS.glob(f"*/{CONFIG}"))
            raise UsageError(f"{key}={path} is not bundled: {choose_from(path, names)}")
        return str(folder)
    folder = user_path(path)
    if folder.is_dir():
        if (folder / ADAPTER).exists():
            advice = "merge it into its base model (merge_and_unload) first"
            if key == "model.path":
                advice = f"set model.adapter={path} and model.path to its base model"
            raise UsageError(f"{key}={path} holds a PEFT adapter: {advice}.")
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{key}={path} is not a checkpoint: the folder has no config.json.")
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UsageError(f"{key}={path} does not exist: give a checkpoint's folder, or a hub name like owner/model.")
    return path


def read_config(path: str, revision: str | None, key: str) -> dict[str, Any]:
    """config.json of a folder or hub name, fetched into the local cache if needed.

    Raises UsageError if it is not available or not a JSON object.
    """
    file = Path(path) / CONFIG if os.path.isdir(path) else _fetched(path, revision, key)
    return read_json(file, f"{key}={path}")


def read_json(file: Path, named: str) -> dict[str, Any]:
    """A JSON object. named: the setting that led to it. Raises UsageError if it cannot be read or is none."""
    named = f"{named} has {'an' if file.name.startswith('a') else 'a'} {file.name} that"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{named} is not JSON in UTF-8: {error}.") from error
    if not isinstance(config, dict):
        raise UsageError(f"{named} is not a JSON object, with fields between {{ and }}.")
    return config


def _fetched(path: str, revision: str | None, key: str) -> Path:
    from huggingface_hub.utils import logging
    from transformers.utils import cached_file

    logging.set_verbosity_error()  # one sentence replaces a dozen messages about retries
    try:
        return Path(str(cached_file(path, CONFIG, revision=revision)))
    except (OSError, ValueError) as error:
        suffix = f" at revision {revision}" if revision else ""
        raise UsageError(
            f"{key}={path}{suffix} is not available: it is not a local folder, not in the Hugging Face cache, and the hub "
            "did not return it (no network, no such name, or no access). Download it first, or give a folder."
        ) from error


def stated_ends(path: str, revision: str | None) -> list[int]:
    """The end tokens in generation_config.json; empty if the file is missing or cannot be read."""
    from transformers.utils import GENERATION_CONFIG_NAME, cached_file

    try:
        file = Path(str(cached_file(path, GENERATION_CONFIG_NAME, revision=revision)))
        ends = json.loads(file.read_text(encoding="utf-8"))["eos_token_id"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []
    return [token for token in (ends if isinstance(ends, list) else [ends]) if type(token) is int]


def native_config(path: str, revision: str | None, key: str, trust_remote_code: bool = False, **more: Any) -> Any:
    """config.json as transformers' AutoConfig reads it. more: values that replace those in the file.

    Raises UsageError as read_config does, if transformers cannot read it, and if it needs the checkpoint's own Python
    without permission. For Python of a part of a model transformers always asks on the terminal, so a configuration that
    names such Python is refused.
    """
    from transformers import AutoConfig

    config = read_config(path, revision, key)
    named = f"{key}={path}"
    if not trust_remote_code and _part_names_code(config):
        raise UsageError(
            f"{named} has a config.json with an auto_map for a part of the model: rws does not run its Python."
        )
    if config.get("transformers_weights") is not None:
        raise UsageError(
            f"{named} has a config.json that names its weights (transformers_weights), which rws does not follow."
        )
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code, **more)
    except Exception as error:
        raise UsageError(f"{named} cannot be loaded: {loading_failure(error, key)}") from error


def _part_names_code(config: dict[str, Any]) -> bool:
    waiting = list(config.values())
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "auto_map" in node:
                return True
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return False


def loading_failure(error: Exception, key: str) -> str:
    """Why transformers could not load something; the end of a sentence."""
    if "trust_remote_code" in str(error):
        prefix = key.removesuffix(".path")
        return (
            f"it needs the Python that comes with it, which runs only with {prefix}.trust_remote_code=true and "
            f"{prefix}.revision=<the full 40-digit commit hash that you trust>."
        )
    return reason(error)


def reason(error: BaseException) -> str:
    """A library's message on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def fingerprint(path: str, revision: str | None) -> dict[str, Any]:
    """What identifies a checkpoint in the manifest: the size of each safetensors or GGUF file and the SHA-256 of its first MiB
    (the header with all shapes, and some weights), and the hub commit if there is one."""
    from transformers.utils import cached_file

    if os.path.isdir(path):
        folder, commit = Path(path), None
    else:
        found = Path(str(cached_file(path, CONFIG, revision=revision)))
        folder, commit = found.parent, found.parent.name
    files = {}
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".gguf") and f.is_file()):
        with file.open("rb") as stream:
            head = hashlib.sha256(stream.read(1 << 20)).hexdigest()
        files[file.name] = {"bytes": file.stat().st_size, "sha256_first_mib": head}
    return {"path": path if commit else folder.name, "commit": commit, "weights": files}


def content(path: str, revision: str | None) -> str:
    """A hash of what a checkpoint computes with: weights, configuration, tokenizer and chat template. For a large file, 64
    pieces spread over it are hashed."""
    from transformers.utils import cached_file

    folder = (
        Path(path) if os.path.isdir(path) else Path(str(cached_file(path, "config.json", revision=revision))).parent
    )
    digest = hashlib.sha256()
    names = (CONFIG, ADAPTER, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for file in sorted(
        [*folder.glob("*.safetensors"), *(folder / name for name in names if (folder / name).is_file())]
    ):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            for n in range(PIECES) if size > PIECES * PIECE else ():
                stream.seek(n * (size - PIECE) // (PIECES - 1))
                digest.update(stream.read(PIECE))
            if size <= PIECES * PIECE:
                digest.update(stream.read())
    return digest.hexdigest()[:12]


def weight_files(path: str, revision: str | None, key: str, download: bool = False) -> list[Path] | None:
    """The safetensors files of a checkpoint; None if they are not on this machine yet.

    download: fetch the index of a hub checkpoint's files. Raises UsageError if the index names anything else: a pickled
    file, or one outside the folder.
    """
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

    def cached(name: str, download: bool) -> Path | None:
        try:
            return Path(str(cached_file(path, name, revision=revision, local_files_only=not download)))
        except OSError:
            return None

    local, named = os.path.isdir(path), f"{key}={path}"
    if local:
        whole, index = (Path(path) / name for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    else:
        whole, index = cached(SAFE_WEIGHTS_NAME, False), cached(SAFE_WEIGHTS_INDEX_NAME, download)
    if whole and whole.is_file():
        return [whole]
    if not index or not index.is_file():
        if local:
            raise UsageError(
                f"{named} cannot be loaded: the folder has no {SAFE_WEIGHTS_NAME}, and no index of several."
            )
        return None
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{named} has a broken {index.name}: {reason(error)}.") from error
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\]+\.safetensors", name):
            raise UsageError(
                f"{named}: {index.name} names {name!r}, which is not a safetensors file of the same folder."
            )
    files = [index.parent / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        if local:
            raise UsageError(f"{named} lacks {', '.join(missing[:3])}, which {index.name} names.")
        return None
    return files


def stored_shapes(files: list[Path]) -> dict[str, list[int]]:
    """The shape of each weight, from the headers of safetensors files. Raises UsageError for a broken file."""
    from safetensors import SafetensorError, safe_open

    shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    shapes[name] = tensors.get_slice(name).get_shape()
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{file} cannot be loaded: {reason(error)} (a corrupt or partial file?)") from error
    return shapes


def stored_weights(path: str, revision: str | None, key: str) -> tuple[int, int] | None:
    """The number of weights, and their size in bytes; None if the files are not here yet. Raises UsageError for broken files."""
    files = weight_files(path, revision, key)
    if not files:
        return None
    return sum(map(math.prod, stored_shapes(files).values())), sum(file.stat().st_size for file in files)


EXPERT = re.compile(r"(^|\.)experts\.")
"""In the names of weights of experts among which each token chooses; those of shared experts are another word."""


def active_weights(path: str, revision: str | None, key: str, native: Any = None) -> int | None:
    """The number of weights that compute with a token: in a mixture of experts, of its experts only the share that a token
    chooses. None if the files are not here yet. native: the configuration of transformers. Raises UsageError for broken
    files."""
    files = weight_files(path, revision, key)
    if not files:
        return None
    sizes = {name: math.prod(shape) for name, shape in stored_shapes(files).items()}
    experts = sum(size for name, size in sizes.items() if EXPERT.search(name))
    text = native.get_text_config() if native is not None else None
    counts = (getattr(text, name, None) for name in ("num_experts", "n_routed_experts", "num_local_experts"))
    count, chosen = next((n for n in counts if n), None), getattr(text, "num_experts_per_tok", None)
    idle = experts * (count - chosen) // count if count and chosen else 0
    return sum(sizes.values()) - idle
