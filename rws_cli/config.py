"""From a composed configuration to a checked one: `check` gives a `Config`, or says in one sentence what is wrong.

It needs no weights and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rws_cli import parts
from rws_cli.combinations import check_sampler
from rws_cli.errors import UsageError, closest, nearest
from rws_cli.paths import user_path
from rws_cli.schema import (
    BENCHMARKS,
    GUIDANCES,
    JUDGES,
    REVIEWS,
    REWARDS,
    SCHEDULES,
    SEARCHES,
    ClassifierReward,
    CompositeReward,
    Config,
    Metric,
    Model,
    NoReward,
    RewardJudge,
)

PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
ASSETS = PACKAGE / "assets"
MODULES = PACKAGE / "metrics" / "modules"
GROUPS = (
    "model",
    "reward",
    "sampler",
    "guidance",
    "search",
    "benchmark",
    "metric",
    "judge",
    "method",
    "experiment",
    "runtime",
)
BUNDLED = "bundled:"

NOT_IDENTITY = ("output", "runtime", "metric", "judge", "label", "table", "draw", "objective")
"""Top-level keys that do not change results: left out of the hash, and free to differ at a resume; of runtime a cache."""


def largest_block(gen_length: int, most: int = 32) -> int:
    """The longest block, of at most 32 tokens, that divides an answer into several; for methods that work by blocks."""
    return max(n for n in range(1, most + 1) if gen_length % n == 0 and (n < gen_length or gen_length == 1))


def _no_environment(name: str, default: str | None = None) -> str:
    raise ValueError(
        f"a configuration does not read environment variables, for it is recorded: let the shell fill in ${name}"
    )


OmegaConf.register_new_resolver("rws_block", largest_block, replace=True)
OmegaConf.register_new_resolver("oc.env", _no_environment, replace=True)


def choices(group: str) -> dict[str, str]:
    """The choices of a configuration group, name → its first comment line."""
    found = {}
    folder = CONF / group
    for path in sorted(folder.rglob("*.yaml")):
        if not path.stem.startswith("_"):
            comments = [
                line
                for line in path.read_text(encoding="utf-8").splitlines()
                if line.startswith("# ") and "@package" not in line
            ]
            found[path.relative_to(folder).with_suffix("").as_posix()] = comments[0][2:] if comments else ""
    return found


def compose(*overrides: str) -> Config:
    """The checked configuration that `rws run OVERRIDES` would have: for scripts and notebooks. Raises UsageError."""
    return check(unchecked(*overrides))


def unchecked(*overrides: str, config_dir: str | None = None) -> DictConfig:
    """What Hydra composes of overrides, conf/ and a folder of configurations. Raises UsageError for what it refuses."""
    from hydra.types import RunMode
    from omegaconf import open_dict

    from rws_cli.composing import Loader, hydra_of
    from rws_cli.explain import NOT_COMPOSED, explain

    try:
        composed = hydra_of(Loader(config_dir)).compose_config("config", list(overrides), RunMode.RUN, from_shell=False)
    except NOT_COMPOSED as error:
        raise UsageError(explain(error)) from error
    with open_dict(composed):
        del composed["hydra"]
    return composed


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
    config: Config = _typed(Config, values, "")
    config.reward = _reward(config.reward, "reward")
    config.benchmark = _by_kind(BENCHMARKS, config.benchmark, "benchmark", "benchmark")
    sampler = config.sampler
    sampler.guidance = _by_kind(GUIDANCES, sampler.guidance, "sampler.guidance")
    sampler.schedule = _by_kind(SCHEDULES, sampler.schedule, "sampler.schedule", "schedule")
    sampler.review = _by_kind(REVIEWS, sampler.review, "sampler.review")
    sampler.search = _by_kind(SEARCHES, sampler.search, "sampler.search")
    for at in ("model", "reward", "sampler", "benchmark"):
        _check_name(f"{at}.name", getattr(config, at).name)
    check_sampler(config)
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
    for name, metric in config.metric.items():
        _check_metric(name, metric, config.trust_remote_code)
    return config


def check_consent(config: Config, typed: Sequence[str]) -> None:
    """Python that comes with a checkpoint or a metric runs, and a judge's key is sent to an address, only if the user
    typed so: not by the word of a configuration or of a run's records alone. typed: the arguments of the command line.

    Raises UsageError naming what to type.
    """
    given = [(key.rpartition(".")[2], value) for word in typed for key, _, value in [word.partition("=")]]
    trusted = any(name == "trust_remote_code" and value.lower() == "true" for name, value in given)
    for key, value in _flat(asdict(config)).items():
        name = key.rpartition(".")[2]
        if name == "trust_remote_code" and value and not trusted:
            raise UsageError(f"{key}=true is taken from the command line alone: type trust_remote_code=true.")
        if name == "base_url" and value and not any(typed_name == name and value in text for typed_name, text in given):
            raise UsageError(f"{key}={value} is taken from the command line alone: type {key}={value}.")
    for name, metric in config.metric.items():
        named = any(word.lstrip("+").startswith("metric") and metric.module in word for word in typed)
        if user_path(metric.module).exists() and not trusted and not named:
            raise UsageError(
                f"metric.{name}.module={metric.module} is Python that runs only if the command line names it: type "
                f"metric.{name}.module={metric.module}."
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


def _typed(cls: type, values: Any, at: str) -> Any:
    """`values` as an instance of the dataclass `cls`; `at` is the dotted key that they stand at."""
    where = f"{at}." if at else ""
    if not isinstance(values, dict):
        raise UsageError(f"{at}={values} must be a group of settings ({', '.join(f.name for f in fields(cls))}).")
    try:
        node = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except ConfigKeyError as error:
        here = [where + f.name for f in fields(cls)]
        raise UsageError(unknown_key(where + (error.full_key or str(error.key)), here)) from error
    except MissingMandatoryValue as error:
        raise UsageError(f"{where}{error.full_key} is not set and has no default.") from error
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        raise UsageError(
            f"{where}{key}={OmegaConf.select(OmegaConf.create(values), key)} has the wrong type: "
            f"{_type_name(cls, key)} is expected."
        ) from error
    _check_limits(node, where)
    return node


def _type_name(cls: type, key: str) -> str:
    hint: Any = cls
    for part in key.split("."):
        hint = get_args(hint)[1] if get_origin(hint) is dict else get_type_hints(hint).get(part, "another type")
    return type_words(hint)


def type_words(hint: Any) -> str:
    """A type as users call it: "a whole number or null"."""
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
            if allowed and value not in allowed and not (role and parts.known(role, value)):
                allowed = [*allowed, *(parts.own(role) if role else ())]
                raise UsageError(
                    f"{key}={value} is not known: choose from {', '.join(allowed)}{nearest(value, list(allowed)) or '.'}"
                )
            within = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
            for at, number in within.items():
                if isinstance(number, float) and not math.isfinite(number):
                    raise UsageError(f"{at}={number} is out of range: it must be a finite number.")
            for limit, broken, words in (
                ("min", lambda v, m: v < m, "at least"),
                ("above", lambda v, m: not v > m, "greater than"),
                ("max", lambda v, m: v > m, "at most"),
            ):
                bound = f.metadata.get(limit)
                if bound is not None and broken(value, bound):
                    raise UsageError(f"{key}={value} is out of range: it must be {words} {bound}.")


def _by_kind(schemas: dict[str, type], values: Any, at: str, role: str | None = None) -> Any:
    """`values` as the schema of their kind, which is built in or, in some roles, a file's own."""
    kind = values.get("kind") if isinstance(values, dict) else None
    schema = schemas.get(str(kind)) or (parts.settings_of(role, kind) if role else None)
    if schema is None:
        allowed = [*schemas, *(parts.own(role) if role else ())]
        raise UsageError(
            f"{at}.kind={kind} is not known: choose from {', '.join(allowed)}{nearest(str(kind), allowed) or '.'}"
        )
    return _typed(schema, values, at)


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


def _check_metric(name: str, metric: Metric, trust_remote_code: bool) -> None:
    ours = sorted(path.name for path in MODULES.iterdir() if (path / f"{path.name}.py").is_file())
    if metric.module in ours or user_path(metric.module).exists():
        return
    if not trust_remote_code or not re.fullmatch(r"[0-9a-f]{40}", metric.revision or ""):
        raise UsageError(
            f"metric.{name}.module={metric.module} is none of ours ({', '.join(ours)}) and no folder here. From the Hugging "
            f"Face hub it is Python that runs only if you say so: set trust_remote_code=true and +metric.{name}.revision=<the "
            "full 40-digit commit hash that you trust>."
        )


def first_line(error: BaseException) -> str:
    """What an error says first, without OmegaConf's name for where it came up."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\w+Error raised while resolving interpolation: ", "", lines[0])


def known_keys() -> list[str]:
    """Every dotted key of the schema, guidance and reward settings of all kinds included."""

    def walk(cls: type, at: str) -> list[str]:
        keys = []
        for name, hint in get_type_hints(cls).items():
            keys.append(at + name)
            if is_dataclass(hint):
                keys += walk(hint, f"{at}{name}.")  # type: ignore[arg-type]
        return keys

    keys = walk(Config, "")
    for cls in BENCHMARKS.values():
        keys += walk(cls, "benchmark.")
    for cls in REWARDS.values():
        keys += walk(cls, "reward.")
    for name in ("guidance", "schedule", "review", "search"):
        for cls in {"guidance": GUIDANCES, "schedule": SCHEDULES, "review": REVIEWS, "search": SEARCHES}[name].values():
            keys += walk(cls, f"sampler.{name}.")
    for cls in JUDGES.values():
        keys += walk(cls, "judge.")
    return list(dict.fromkeys(keys))


def unknown_key(key: str, more: Sequence[str] = ()) -> str:
    """The sentence for a key that is no setting; more: settings besides those of the built-in parts."""
    keys = list(dict.fromkeys([*known_keys(), *more]))
    parent, _, last = key.rpartition(".")
    siblings = {name: k for k in keys for at, _, name in [k.rpartition(".")] if at == parent}
    others = [name for name in siblings if name != last]  # it may be a setting of another kind
    near = closest(last, others, 0.5 if parent else 0.6)
    elsewhere = [
        k for k in keys if k.rpartition(".")[2].lower() == last.lower() and k != key
    ]  # a right name in the wrong place
    elsewhere.sort(key=lambda k: not k.startswith("runtime."))
    whole = None if siblings else closest(key, keys)
    found = siblings[near] if near else elsewhere[0] if elsewhere else whole
    hint = f"; did you mean {found}?" if found else ""
    allowed = f" Settings there: {', '.join(others)}." if siblings and not hint else ""
    return f"{key} is not a setting here{hint or '.'}{allowed}"


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the results."""
    kept = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}
    runtime = resolved.get("runtime") or {}
    if runtime.get("cache", "none") != "none":
        kept["runtime"] = {key: runtime[key] for key in ("cache", "cache_refresh")}
    return kept


def config_hash(resolved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity(resolved), sort_keys=True).encode()).hexdigest()


def differing_keys(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys at which two nested dictionaries differ, with both values (None where a key is absent)."""
    flat_a, flat_b = _flat(a), _flat(b)
    return {
        key: (flat_a.get(key), flat_b.get(key)) for key in sorted(flat_a | flat_b) if flat_a.get(key) != flat_b.get(key)
    }


def _flat(node: dict[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return flat
