"""From a composed configuration to a checked one: `check` gives a `Config`, or says in one sentence what is wrong.

It needs no weights and imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rws_cli import parts, registry
from rws_cli.combinations import check_combinations
from rws_cli.config.identity import flat, resolved
from rws_cli.config.keys import PARTS
from rws_cli.config.schema import (
    JUDGES,
    REWARDS,
    ClassifierReward,
    CompositeReward,
    Config,
    Model,
    NoReward,
    RewardJudge,
    Sampler,
)
from rws_cli.config.typed import typed
from rws_cli.errors import UsageError, first_line, nearest


def largest_block(gen_length: int, most: int = 32) -> int:
    """The longest block, of at most 32 tokens, that divides an answer into several; for methods that work by blocks."""
    return max(n for n in range(1, most + 1) if gen_length % n == 0 and (n < gen_length or gen_length == 1))


def _no_environment(name: str, default: str | None = None) -> str:
    raise ValueError(
        f"a configuration does not read environment variables, for it is recorded: let the shell fill in ${name}"
    )


OmegaConf.register_new_resolver("rws_block", largest_block, replace=True)
OmegaConf.register_new_resolver("oc.env", _no_environment, replace=True)


def check(composed: DictConfig) -> Config:
    """The typed configuration of a composed one.

    Raises UsageError naming the key, the value and what is allowed.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"The configuration cannot be resolved at {error.full_key}: {first_line(error)}") from error
    assert isinstance(values, dict)
    for key in ("hydra", "sweeps"):
        values.pop(key, None)
    sampler: Any = values.get("sampler")
    order_settings = sampler.pop(sampler["order"], None) if _has_own_settings(sampler) else None
    config: Config = typed(Config, values, "")
    config.reward = _reward(config.reward, "reward")
    config.benchmark = _by_kind({}, config.benchmark, "benchmark")
    sampler = config.sampler
    order = registry.load("order", sampler.order, "sampler.order")
    sampler.order = typed(order, {"kind": sampler.order} | (order_settings or {}), f"sampler.{sampler.order}")
    for name in ("guidance", "schedule", "review", "search"):
        setattr(sampler, name, _by_kind({}, getattr(sampler, name), f"sampler.{name}"))
    for at in ("model", "reward", "sampler", "benchmark"):
        _check_name(f"{at}.name", getattr(config, at).name)
    check_combinations(config)
    _check_remote_code(config.model, "model")
    config.judge = _by_kind(JUDGES, config.judge, "judge")
    nodes = classifiers(config.reward)
    if isinstance(config.judge, RewardJudge):
        config.judge.reward = _reward(config.judge.reward, "judge.reward")
        nodes |= classifiers(config.judge.reward, "judge.reward")
        if isinstance(config.judge.reward, NoReward):
            raise UsageError("judge.reward=none scores nothing: choose a reward with reward@judge.reward=….")
    for at, classifier in nodes.items():
        _check_remote_code(classifier, at)
    config.metric = {
        name: _by_kind({}, _metric(values), f"metric.{name}", "metric") for name, values in config.metric.items()
    }
    for metric in config.metric.values():
        for sentence in metric.conflicts(config):
            raise UsageError(sentence)
    return config


def _has_own_settings(sampler: Any) -> bool:
    """Whether an order's settings stand beside its name, at sampler.NAME."""
    order = registry.find("order").get(str(sampler.get("order"))) if isinstance(sampler, dict) else None
    return order is not None and bool(order.settings.keys() - {"kind"})


def check_recorded(recorded: dict[str, Any]) -> Config:
    """The typed configuration of a recorded one, with the settings that came later at their defaults.

    Raises UsageError as `check` does.
    """
    values = deepcopy(recorded)
    if isinstance(sampler := values.get("sampler"), dict):
        known = {f.name for f in fields(Sampler)}
        values["sampler"] = {key: value for key, value in sampler.items() if value is not None or key in known}
    return check(OmegaConf.create(values))


def read_again(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration as it would be recorded now; as it is where it is no configuration any more."""
    try:
        return resolved(check_recorded(recorded))
    except UsageError:
        return recorded


def check_consent(config: Config, typed: Sequence[str]) -> None:
    """Python that comes with a checkpoint or a metric runs, and a judge's key is sent to an address, only if the user
    typed so: not by the word of a configuration or of a run's records alone. typed: the arguments of the command line.

    Raises UsageError naming what to type.
    """
    given = [(key.rpartition(".")[2], value) for word in typed for key, _, value in [word.partition("=")]]
    trusted = any(name == "trust_remote_code" and value.lower() == "true" for name, value in given)
    for key, value in flat(asdict(config)).items():
        name = key.rpartition(".")[2]
        if name == "trust_remote_code" and value and not trusted:
            raise UsageError(f"{key}=true is taken from the command line alone: type trust_remote_code=true.")
        if name == "base_url" and value and not any(typed_name == name and value in text for typed_name, text in given):
            raise UsageError(f"{key}={value} is taken from the command line alone: type {key}={value}.")
    for name, metric in config.metric.items():
        module = getattr(metric, "module", None)  # of the library evaluate
        named = any(word.lstrip("+").startswith("metric") and str(module) in word for word in typed)
        if module and Path(os.path.expanduser(module)).exists() and not trusted and not named:
            raise UsageError(
                f"metric.{name}.module={module} is Python that runs only if the command line names it: type "
                f"metric.{name}.module={module}."
            )


def classifiers(reward: Any, at: str = "reward") -> dict[str, ClassifierReward]:
    """The reward models that a reward set at a key needs, by the key of each: itself, or some of its parts and theirs."""
    if isinstance(reward, ClassifierReward):
        return {at: reward}
    settings = reward if isinstance(reward, dict) else vars(reward) if is_dataclass(reward) else {}
    return {key: node for name, part in settings.items() for key, node in classifiers(part, f"{at}.{name}").items()}


PART_REWARDS = {kind: schema for kind, schema in REWARDS.items() if kind not in ("none", "composite", "process")}
"""What may be a part of another reward."""


def _reward(values: Any, at: str, schemas: dict[str, type] = REWARDS) -> Any:
    """The reward that stands at a key, its parts typed; a composite's weights are held to its parts."""
    reward = _by_kind(schemas, values, at, "reward")
    for f in fields(reward):
        value, key = getattr(reward, f.name), f"{at}.{f.name}"
        if f.metadata.get("role") == "reward" or _is_part(value):
            if isinstance(value, dict) and "kind" not in value:  # several, by name
                setattr(reward, f.name, {n: _reward(part, f"{key}.{n}", PART_REWARDS) for n, part in value.items()})
            else:
                setattr(reward, f.name, _reward(value, key, PART_REWARDS))
    if isinstance(reward, CompositeReward) and set(reward.weights) != set(reward.parts):
        raise UsageError(
            f"{at}.weights has {', '.join(reward.weights)} and {at}.parts has {', '.join(reward.parts)}: "
            "give each part a weight."
        )
    return reward


def _is_part(value: Any) -> bool:
    """Whether a setting is what the group reward puts there: a reward, or several by name."""
    if not isinstance(value, dict):
        return False
    return {"name", "kind"} <= value.keys() or (bool(value) and all(_is_part(part) for part in value.values()))


def _by_kind(schemas: dict[str, type], values: Any, at: str, role: str | None = None) -> Any:
    """`values` as the part of their kind."""
    kind = values.get("kind") if isinstance(values, dict) else None
    role = PARTS.get(at, role or "reward")
    found = registry.find(role)
    if kind in found:
        return typed(registry.load(role, kind, f"{at}.kind"), values, at)
    if not schemas:
        registry.get(role, kind, f"{at}.kind")
    role = role if role in parts.ROLES else None
    schema = schemas.get(str(kind)) or (parts.settings_of(role, kind) if role else None)
    if schema is None:
        allowed = [*schemas, *found, *(parts.own(role) if role else ())]
        raise UsageError(
            f"{at}.kind={kind} is not known: choose from {', '.join(allowed)}{nearest(str(kind), allowed) or '.'}"
        )
    return typed(schema, values, at)


def _check_remote_code(node: Model | ClassifierReward, at: str) -> None:
    if isinstance(node, ClassifierReward) and node.needs_remote_code and not node.trust_remote_code:
        raise UsageError(
            f"{at}={node.name} is loaded by the Python that comes with {node.path}, which runs only if you say so: set "
            f"trust_remote_code=true and pins.{node.name}=<the full 40-digit commit hash that you trust>."
        )
    if node.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", node.revision or ""):
        raise UsageError(
            f"{at}.trust_remote_code=true runs Python from {node.path}: pin it with {at}.revision=<the full 40-digit commit hash>."
        )


def _check_name(at: str, name: str) -> None:
    """Names become folders: they must stay within the output folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        raise UsageError(f"{at}={name} must be letters, digits and _ . + -, for a folder is called so.")


def _metric(values: Any) -> Any:
    """A metric's settings, also where they are in the form of earlier runs: module, revision and arguments."""
    if not isinstance(values, dict) or values.get("kind") == "evaluate":
        return values
    module, arguments = values.get("module"), values.get("arguments") or {}
    if module is None:
        return {key: value for key, value in values.items() if key != "arguments"} | arguments
    if module in registry.find("metric"):
        return {"kind": module} | arguments
    return {"kind": "evaluate", "module": module, "revision": values.get("revision"), "arguments": arguments}
