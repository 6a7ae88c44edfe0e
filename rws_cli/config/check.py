"""Check a composed configuration: `check` returns a `Config`, or says in one sentence what is wrong.

Reads no weights and does not import torch.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from rws_cli import registry
from rws_cli.config.compatibility import check_compatibility
from rws_cli.config.identity import flat, resolved
from rws_cli.config.keys import PARTS
from rws_cli.config.renamed import metric_settings, rename_settings
from rws_cli.config.schema import Config, Sampler
from rws_cli.config.typed import typed
from rws_cli.errors import UsageError, choose_from, first_line
from rws_cli.files import user_path


def largest_block(gen_length: int, block_size: int | None = None, most: int = 32) -> int:
    """The longest block, at most `most` tokens, that divides gen_length into several blocks; for methods that need blocks.
    block_size: of the model's attention, which decides in place of gen_length."""
    if block_size:
        return min(block_size, most)
    return max(n for n in range(1, most + 1) if gen_length % n == 0 and (n < gen_length or gen_length == 1))


def _no_environment(name: str, default: str | None = None) -> str:
    raise ValueError(
        f"a configuration is recorded, so it cannot read environment variables: let the shell expand ${name}"
    )


def default_block_length(gen_length: int, block_size: int | None) -> int:
    """The length of the sampler's blocks: that of the model's blocks of attention, else of the whole completion."""
    return block_size or gen_length


def default_start_length(gen_length: int, most: int = 64) -> int:
    """The length at which a completion that grows starts."""
    return min(gen_length, most)


OmegaConf.register_new_resolver("rws_start_length", default_start_length, replace=True)
OmegaConf.register_new_resolver("rws_block", largest_block, replace=True)
OmegaConf.register_new_resolver("rws_block_length", default_block_length, replace=True)


@contextmanager
def environment_hidden() -> Iterator[None]:
    """Make `oc.env` fail while a configuration is composed and resolved, and restore it afterwards for other users of
    OmegaConf in this process."""
    with _RESOLVERS:
        before = BaseContainer._resolvers["oc.env"]
        OmegaConf.register_new_resolver("oc.env", _no_environment, replace=True)
        try:
            yield
        finally:
            BaseContainer._resolvers["oc.env"] = before


_RESOLVERS = threading.RLock()


@environment_hidden()
def check(composed: DictConfig) -> Config:
    """The checked, typed form of a composed configuration.

    Raises UsageError naming the key, the value and what is allowed.
    """
    try:
        values = OmegaConf.to_container(_with_family(composed), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"The configuration cannot be resolved at {error.full_key}: {first_line(error)}") from error
    assert isinstance(values, dict)
    for key in ("hydra", "sweeps"):
        values.pop(key, None)
    sampler: Any = values.get("sampler")
    order_settings = sampler.pop(sampler["order"], None) if _has_own_settings(sampler) else None
    config: Config = typed(Config, values, "")
    config.model, config.reward = _part(config.model, "model", "model"), _part(config.reward, "reward", "reward")
    config.benchmark = _part(config.benchmark, "benchmark", "benchmark")
    sampler = config.sampler
    order = registry.load("order", sampler.order, "sampler.order")
    sampler.order = typed(order, {"kind": sampler.order} | (order_settings or {}), f"sampler.{sampler.order}")
    for name in ("guidance", "schedule", "remasking", "search"):
        key = f"sampler.{name}"
        setattr(sampler, name, _part(getattr(sampler, name), key, PARTS[key]))
    for key in ("model", "reward", "sampler", "benchmark"):
        _check_name(f"{key}.name", getattr(config, key).name)
    config.judge = _part(config.judge, "judge", "judge")
    if config.runtime.cache == "auto":
        config.runtime.cache = automatic_cache(config)
    config.metric = {
        name: _part(metric_settings(values), f"metric.{name}", "metric") for name, values in config.metric.items()
    }
    check_compatibility(config)
    return config


def _with_family(composed: DictConfig) -> DictConfig:
    """A configuration with the kind that the checkpoint has in place of model.kind=auto. Raises UsageError if there is none."""
    if OmegaConf.select(composed, "model.kind") != "auto":
        return composed
    auto = _part(OmegaConf.to_container(composed.model, resolve=True), "model", "model")
    composed = composed.copy()
    with open_dict(composed):
        composed.model = auto.replacement()
    return composed


def automatic_cache(config: Config) -> str:
    """prefix where it is exact and works, else none."""
    works = config.sampler.passes_per_step == 1 and config.model.attention != "flash_attention_2"
    return "prefix" if config.model.topology.block_size and works else "none"


def _has_own_settings(sampler: Any) -> bool:
    """Whether the sampler's order has settings, which are at sampler.NAME."""
    order = registry.available("order").get(str(sampler.get("order"))) if isinstance(sampler, dict) else None
    return order is not None and bool(order.settings.keys() - {"kind"})


def check_recorded(recorded: dict[str, Any]) -> Config:
    """The typed configuration of a recorded one; settings added since then have their defaults.

    Raises UsageError as `check` does.
    """
    values = deepcopy(recorded)
    rename_settings(values)
    if isinstance(sampler := values.get("sampler"), dict):
        names = {f.name for f in fields(Sampler)}
        values["sampler"] = {key: value for key, value in sampler.items() if value is not None or key in names}
    return check(OmegaConf.create(values))


def updated_config(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration as it would be recorded now; unchanged if it is no longer valid."""
    try:
        return resolved(check_recorded(recorded))
    except UsageError:
        return recorded


CONSENT = ("benchmark.include_path=", "benchmark.confirm_run_unsafe_code=")
"""Overrides of a benchmark that must be typed again for a recorded run, because they run Python."""


def check_consent(config: Config, typed: Sequence[str], prefix: str = "") -> None:
    """Check that the user typed what needs consent: running Python that comes with a checkpoint, a metric or a folder of
    tasks, running programs without a sandbox, and sending a judge's key to an address. A configuration file or a run's
    records are not enough. typed: the command line. prefix: of the keys that are checked.

    Raises UsageError naming what to type.
    """
    settings = [(key.rpartition(".")[2], value) for word in typed for key, _, value in [word.partition("=")]]
    trusted = any(name == "trust_remote_code" and value.lower() == "true" for name, value in settings)
    for key, value in flat(asdict(config)).items():
        if not key.startswith(prefix):
            continue
        name = key.rpartition(".")[2]
        if name == "trust_remote_code" and value and not trusted:
            raise UsageError(f"{key}=true must be given on the command line: type trust_remote_code=true.")
        if name == "confirm_run_unsafe_code" and value and (name, "true") not in settings:
            raise UsageError(
                f"{key}=true runs what a model writes, so it must be given on the command line: type {key}=true."
            )
        if (
            name in ("base_url", "include_path")
            and value
            and not any(typed_name == name and value in text for typed_name, text in settings)
        ):
            raise UsageError(f"{key}={value} must be given on the command line: type {key}={value}.")
    for name, metric in config.metric.items():
        module = getattr(metric, "module", None)  # of the library evaluate
        named = any(word.lstrip("+").startswith("metric") and str(module) in word for word in typed)
        if module and user_path(module).exists() and not trusted and not named:
            raise UsageError(
                f"metric.{name}.module={module} runs Python, so it must be given on the command line: type "
                f"metric.{name}.module={module}."
            )


def _part(values: Any, key: str, role: str, within: str = "") -> Any:
    """The part at a key, with the parts that it contains. within: the role of the part that contains it.

    Raises UsageError for an unknown part, or one that cannot be a component of another of its role.
    """
    kind, available = values.get("kind") if isinstance(values, dict) else None, registry.available(role)
    if role == within:
        available = {name: source for name, source in available.items() if source.facts.get("can_be_component", True)}
    if kind not in available:
        raise UsageError(f"{key}.kind={kind} is not known: {choose_from(kind, available)}")
    part = typed(registry.load(role, kind, f"{key}.kind"), values, key)
    for f in fields(part):
        if inner := f.metadata.get("role"):
            value, inner_key = getattr(part, f.name), f"{key}.{f.name}"
            several = isinstance(value, dict) and "kind" not in value  # by names that the user chose
            components = {n: _part(v, f"{inner_key}.{n}", inner, role) for n, v in value.items()} if several else {}
            setattr(part, f.name, components if several else _part(value, inner_key, inner, role))
    for sentence in part.mistakes(key):
        raise UsageError(sentence)
    return part


def _check_name(key: str, name: str) -> None:
    """Raises UsageError for a name that would leave the output folder: names become folders."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        raise UsageError(f"{key}={name} is used as a folder's name: it must be letters, digits and _ . + -.")
