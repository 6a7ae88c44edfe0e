"""Configurations of transformers' own classes from a config.json that names a class of its own."""

from typing import Any

from rws_cli.errors import UsageError

OWN_NAMES = ("model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype")
"""Fields that name the published class, or say how weights are stored."""


def check_fields(config: dict[str, Any], path: str, expected: dict[str, Any]) -> None:
    """Raises UsageError if config.json has another value for a field. Fields that are absent or null are not compared."""
    for name, value in expected.items():
        if config.get(name) is not None and config[name] != value:
            raise UsageError(f"model.path={path} is not supported: config.json has {name}={config[name]}, not {value}.")


def native_decoder(config_class: Any, config: dict[str, Any], path: str, **changes: Any) -> Any:
    """The native configuration of a bidirectional decoder. config: config.json, whose fields have the native names; changes:
    fields that replace or join them. Raises UsageError for attention that is not full: a sliding window, or scaled positions."""
    if config.get("use_sliding_window"):
        raise UsageError(f"model.path={path} is not supported: config.json asks for a sliding window.")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise UsageError(f"model.path={path} is not supported: config.json asks for rope scaling.")
    fields = {name: value for name, value in config.items() if name not in OWN_NAMES} | changes
    native = config_class(**fields | {"use_cache": False})
    native.is_causal = False
    return native
