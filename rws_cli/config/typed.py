"""Convert values to typed settings, checking types and ranges."""

import math
import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rws_cli import registry
from rws_cli.config.keys import unknown_key
from rws_cli.errors import UsageError, choose_from


def typed(cls: type, values: Any, key: str) -> Any:
    """`values` as an instance of the dataclass `cls`. key: their dotted key. Raises UsageError saying what is wrong."""
    where = f"{key}." if key else ""
    if not isinstance(values, dict):
        raise UsageError(f"{key}={values} must be a group of settings ({', '.join(f.name for f in fields(cls))}).")
    try:
        node = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except ConfigKeyError as error:
        here = [where + f.name for f in fields(cls)]
        raise UsageError(unknown_key(where + (error.full_key or str(error.key)), here)) from error
    except MissingMandatoryValue as error:
        raise UsageError(
            f"{where}{error.full_key} is not set and has no default: type {where}{error.full_key}=…"
        ) from error
    except OmegaConfBaseException as error:
        full_key = error.full_key or ""
        raise UsageError(
            f"{where}{full_key}={OmegaConf.select(OmegaConf.create(values), full_key)} has the wrong type: "
            f"{_type_name(cls, full_key)} is expected."
        ) from error
    _check_limits(node, where)
    return node


def _type_name(cls: type, key: str) -> str:
    hint: Any = cls
    for part in key.split("."):
        hint = get_args(hint)[1] if get_origin(hint) is dict else get_type_hints(hint).get(part, "another type")
    return type_words(hint)


def type_words(hint: Any) -> str:
    """A type in words: "a whole number or null"."""
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    words = [
        names.get(name, name)
        for name in re.findall(r"\w+", getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint))
    ]
    return " or ".join("null" if word == "None" else word for word in words)


def _check_limits(node: Any, where: str) -> None:
    for f in fields(node):
        value, key = getattr(node, f.name), where + f.name
        if is_dataclass(value):
            _check_limits(value, f"{key}.")
        elif value is not None:
            allowed, role = f.metadata.get("choices"), f.metadata.get("role")
            if role and isinstance(value, str):
                registry.get(role, value, key)
            if allowed and value not in allowed:
                raise UsageError(f"{key}={value} is not known: {choose_from(value, allowed)}")
            within = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
            for entry, number in within.items():
                if isinstance(number, float) and not math.isfinite(number):
                    raise UsageError(f"{entry}={number} is out of range: it must be a finite number.")
            for limit, broken, words in (
                ("min", lambda v, m: v < m, "at least"),
                ("above", lambda v, m: not v > m, "greater than"),
                ("max", lambda v, m: v > m, "at most"),
            ):
                bound = f.metadata.get(limit)
                if bound is not None and broken(value, bound):
                    raise UsageError(f"{key}={value} is out of range: it must be {words} {bound}.")
