"""LoRA adapters (arXiv 2106.09685) in PEFT's format, merged into a model's weights when it is loaded."""

import copy
import hashlib
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rws_cli.errors import UsageError
from rws_cli.files import user_path
from rws_cli.models.checkpoint import ADAPTER, fingerprint, read_json, reason, stored_shapes

KEY, WEIGHTS = "model.adapter", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""PEFT writes it before the name of each module."""
FOLLOWED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
"""Fields of adapter_config.json that determine what is merged."""
HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
)  # fmt: skip
"""Fields that only training reads, or that the names of the weights repeat. Others must be false, null or empty."""
STARTS = (True, False, None, "gaussian")
"""Ways to draw the first weights of an adapter (init_lora_weights) that leave the base model unchanged."""


@dataclass(frozen=True)
class Adapter:
    """An adapter without its weights. modules: for each module that it changes, named as in the model that is loaded, the
    name in the file. shapes: of the weights in the file."""

    folder: str
    config: dict[str, Any]
    modules: dict[str, str]
    shapes: dict[str, list[int]]
    named: str

    def check(self, model: Any) -> None:
        """Raises UsageError if a module that it changes is not in the model, or has another shape."""
        layers, name = dict(model.named_modules()), type(model).__name__
        if "lm_head" in self.modules and model.config.get_text_config().tie_word_embeddings:
            raise UsageError(
                f"{self.named} does not fit {name}: it changes lm_head, whose weights are the embeddings' too."
            )
        for module, stored in self.modules.items():
            wanted = tuple(getattr(getattr(layers.get(module), "weight", None), "shape", ()))
            if len(wanted) != 2 or not isinstance(layers[module], torch.nn.Linear):
                raise UsageError(
                    f"{self.named} does not fit {name}: it changes {stored}, which is not a linear layer of this model."
                )
            rows, columns = (self.shapes.get(f"{PREFIX}{stored}.lora_{side}.weight", [0, 0]) for side in "BA")
            if (rows[0], columns[-1]) != wanted or rows[-1] != columns[0]:
                raise UsageError(
                    f"{self.named} does not fit {name}: its weights for {stored} are {rows} and {columns}, and the layer "
                    f"is {list(wanted)}."
                )

    def check_class(self, model_class: Any, config: Any) -> None:
        """Raises UsageError as `check` does, without weights."""
        with torch.device("meta"):
            self.check(getattr(model_class, "from_config", model_class)(copy.deepcopy(config)))

    def alpha(self, stored: str) -> float:
        """The α of a module, from its name in the file."""
        patterns = (self.config.get("alpha_pattern") or {}).items()
        special = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", stored))
        return next(special, self.config["lora_alpha"])

    def merge(self, model: Any) -> None:
        """Add its products B·A to the weights of the model. Raises UsageError if they do not fit."""
        from peft import LoraConfig, LoraModel
        from safetensors.torch import load_file

        self.check(model)
        config = LoraConfig(
            target_modules=list(self.modules),
            rank_pattern={
                module: self.shapes[f"{PREFIX}{stored}.lora_A.weight"][0] for module, stored in self.modules.items()
            },
            alpha_pattern={module: self.alpha(stored) for module, stored in self.modules.items()},
            use_rslora=bool(self.config.get("use_rslora")),
        )
        with_adapter = LoraModel(model, config, "default")
        weights = load_file(Path(self.folder) / WEIGHTS)
        for module, stored in self.modules.items():
            layer = model.get_submodule(module)
            for side in "AB":
                getattr(layer, f"lora_{side}")["default"].weight.data.copy_(
                    weights[f"{PREFIX}{stored}.lora_{side}.weight"]
                )
        with_adapter.merge_and_unload()
        model.eval().requires_grad_(False)


def read_adapter(path: str | None, base: dict[str, Any], key_mapping: dict[str, str] | None = None) -> Adapter | None:
    """The adapter in a folder or on the hub that model.adapter names, without its weights; None if it names none.

    base: config.json of the model. key_mapping: from names in the model's checkpoint to those of its class. Raises
    UsageError for what is missing or not supported, and without peft.
    """
    if path is None:
        return None
    named = f"{KEY}={path}"
    if find_spec("peft") is None:
        raise UsageError(f"{named} needs peft: pip install 'rws[adapter]'.")
    folder = adapter_folder(path)
    config = read_json(Path(folder) / ADAPTER, named)
    kind = config.get("peft_type")
    if kind != "LORA" or not isinstance(config.get("lora_alpha"), int | float):
        raise UsageError(
            f"{named} is not a LoRA adapter: adapter_config.json has peft_type={kind}, lora_alpha={config.get('lora_alpha')}."
        )
    others = (n for n in sorted(config.keys() - {*FOLLOWED, *HARMLESS, "init_lora_weights"}) if _is_set(config[n]))
    other = next(others, None if config.get("init_lora_weights") in STARTS else "init_lora_weights")
    if other:
        raise UsageError(f"{named} is not supported: adapter_config.json has {other}={config[other]}.")
    made_for = (config.get("auto_mapping") or {}).get("base_model_class")
    classes = base.get("architectures") or []
    if made_for and classes and made_for not in classes:
        raise UsageError(f"{named} does not fit: it was made for {made_for}, and the model is {' or '.join(classes)}.")
    shapes = stored_shapes([Path(folder) / WEIGHTS])
    modules = {}
    for name in shapes:
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_[AB]\.weight", name)
        if match is None:
            raise UsageError(
                f"{named} is not supported: it has a weight {name}, which is none of LoRA's for a linear layer."
            )
        modules[renamed(match[1], key_mapping or {})] = match[1]
    if not modules:
        raise UsageError(f"{named} has no weights.")
    return Adapter(folder, config, modules, shapes, named)


def _is_set(value: Any) -> bool:
    return value not in (None, False, "none", {}, [])


def renamed(module: str, key_mapping: dict[str, str]) -> str:
    for pattern, name in key_mapping.items():
        module, count = re.subn(pattern, name, f"{module}.")
        module = module.removesuffix(".")
        if count:
            break
    return module


def adapter_folder(path: str) -> str:
    """The local folder of an adapter; one on the hub is downloaded. Raises UsageError if there is none in safetensors."""
    from transformers.utils import cached_file

    folder = user_path(path)
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise UsageError(f"{KEY}={path} does not exist: give an adapter's folder, or a hub name like owner/adapter.")
    for name in (ADAPTER, WEIGHTS):
        try:
            file = Path(str(cached_file(str(folder) if folder.is_dir() else path, name)))
        except (OSError, ValueError) as error:
            raise UsageError(f"{KEY}={path} has no {name} that can be read: {reason(error)}") from error
    return str(file.parent)


def adapter_fingerprint(path: str) -> dict[str, Any]:
    """What identifies an adapter in the manifest: as for a checkpoint, and the hash of adapter_config.json."""
    folder = Path(adapter_folder(path))
    source = fingerprint(str(folder), None)
    if not os.path.isdir(user_path(path)):
        source |= {"path": path, "commit": folder.name}
    return source | {"config": hashlib.sha256((folder / ADAPTER).read_bytes()).hexdigest()}
