"""Finding checkpoints, and reading the parts of them that are not weights."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from rws_cli.config import ASSETS, BUNDLED
from rws_cli.errors import UsageError, nearest

PIECES, PIECE = 64, 1 << 18
"""How many pieces of a large file are hashed, and their bytes."""


def locate(path: str, key: str) -> str:
    """A local folder for "bundled:NAME" and for paths; a hub name is returned as it is.

    Raises UsageError naming `key` where a folder or bundled name does not exist.
    """
    if path.startswith(BUNDLED):
        folder = ASSETS / path.removeprefix(BUNDLED)
        if not (folder / "config.json").is_file():
            names = sorted(p.parent.name for p in ASSETS.glob("*/config.json"))
            raise UsageError(
                f"{key}={path} is not bundled: choose from {', '.join(BUNDLED + n for n in names)}"
                f"{nearest(folder.name, names) or '.'}"
            )
        return str(folder)
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"{key}={path} is not a checkpoint: the folder has no config.json.")
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UsageError(f"{key}={path} does not exist: give a checkpoint's folder, or a hub name like owner/model.")
    return path


def read_config(path: str, revision: str | None, key: str) -> dict[str, Any]:
    """config.json of a folder or hub name, fetched into the local cache if needed.

    Raises UsageError if it cannot be had.
    """
    from huggingface_hub.utils import logging
    from transformers.utils import cached_file

    logging.set_verbosity_error()  # one sentence of ours says what a dozen retries would
    try:
        found = cached_file(path, "config.json", revision=revision)
        assert found is not None
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise UsageError(
            f"{key}={path}{at} cannot be had: it is no folder here, not in the Hugging Face cache, and the hub did not "
            "give it (no network, no such name, or no access). Download it first, or give a folder."
        ) from error


def fingerprint(path: str, revision: str | None) -> dict[str, Any]:
    """What pins a checkpoint in the manifest: each safetensors file's size and SHA-256 of its first MiB (the header
    with all shapes, and some weights), and the hub commit where there is one."""
    from transformers.utils import cached_file

    if os.path.isdir(path):
        folder, commit = Path(path), None
    else:
        found = Path(str(cached_file(path, "config.json", revision=revision)))
        folder, commit = found.parent, found.parent.name
    files = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            head = hashlib.sha256(stream.read(1 << 20)).hexdigest()
        files[file.name] = {"bytes": file.stat().st_size, "sha256_first_mib": head}
    return {"path": path if commit else folder.name, "commit": commit, "weights": files}


def content(path: str, revision: str | None) -> str:
    """A hash of what a checkpoint computes with: weights, configuration, tokenizer and chat template. Of a large file it
    reads 64 pieces, spread from its first byte to its last."""
    from transformers.utils import cached_file

    folder = (
        Path(path) if os.path.isdir(path) else Path(str(cached_file(path, "config.json", revision=revision))).parent
    )
    digest = hashlib.sha256()
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
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


def stored_weights(path: str, revision: str | None) -> tuple[int, int] | None:
    """The number of weights and their bytes, read off the safetensors headers; None if the files are not here yet."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    folder = Path(path) if os.path.isdir(path) else None
    if folder is None:
        try:
            folder = Path(str(cached_file(path, "config.json", revision=revision, local_files_only=True))).parent
        except OSError:
            return None
    count = stored = 0
    for file in folder.glob("*.safetensors"):
        stored += file.stat().st_size
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                count += math.prod(tensors.get_slice(name).get_shape())
    return (count, stored) if count else None
