"""From a composed configuration to a checked one: `check` gives a `Config`, or says in one sentence what is wrong.

It needs no weights and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rws_cli.errors import UsageError, nearest
from rws_cli.schema import (
    BENCHMARKS,
    COUNTED,
    GUIDANCES,
    JUDGES,
    REMASKING,
    REVIEWS,
    REWARDS,
    SCHEDULES,
    SEARCHES,
    BestOfN,
    ClassifierReward,
    CompositeReward,
    Config,
    ConstantReward,
    EntrgiGuidance,
    FkSteering,
    Metric,
    Model,
    NoReview,
    NoReward,
    NoSearch,
    ProcessReward,
    RemdmSchedule,
    ReplayGuidance,
    RewardGuidance,
    RewardJudge,
    Sampler,
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

NOT_IDENTITY = ("output", "runtime", "metric", "judge", "label", "table")
"""Top-level keys that do not change results: left out of the hash, and free to differ at a resume."""


def largest_block(gen_length: int, most: int = 32) -> int:
    """The longest block, of at most 32 tokens, that divides an answer into several; for methods that work by blocks."""
    return max(n for n in range(1, most + 1) if gen_length % n == 0 and (n < gen_length or gen_length == 1))


OmegaConf.register_new_resolver("rws_block", largest_block, replace=True)


def choices(group: str) -> dict[str, str]:
    """The choices of a configuration group, name → its first comment line."""
    found = {}
    folder = CONF / group
    for path in sorted(folder.rglob("*.yaml")):
        if not path.stem.startswith("_"):
            comments = [
                line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line
            ]
            found[path.relative_to(folder).with_suffix("").as_posix()] = comments[0][2:] if comments else ""
    return found


def compose(*overrides: str) -> Config:
    """The checked configuration that `rws run OVERRIDES` would have: for scripts and notebooks. Raises UsageError."""
    import hydra
    from hydra.errors import HydraException

    from rws_cli.explain import explain

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = hydra.compose("config", list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(explain(error)) from error
    return check(composed)


def check(composed: DictConfig) -> Config:
    """The typed configuration of a composed one.

    Raises UsageError naming the key, the value and what is allowed.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"The configuration cannot be resolved at {error.full_key}: {first_line(error)}") from error
    assert isinstance(values, dict)
    values.pop("hydra", None)
    config: Config = _typed(Config, values, "")
    config.reward = _reward(config.reward, "reward")
    config.benchmark = _by_kind(BENCHMARKS, config.benchmark, "benchmark")
    sampler = config.sampler
    sampler.guidance = _by_kind(GUIDANCES, sampler.guidance, "sampler.guidance")
    sampler.schedule = _by_kind(SCHEDULES, sampler.schedule, "sampler.schedule")
    sampler.review = _by_kind(REVIEWS, sampler.review, "sampler.review")
    sampler.search = _by_kind(SEARCHES, sampler.search, "sampler.search")
    _check_sampler(config)
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
        _check_metric(name, metric, config.remote_code)
    return config


def classifiers(reward: Any, at: str = "reward") -> dict[str, ClassifierReward]:
    """The reward models that a reward set at a key needs: itself or some of its parts, by the key of each."""
    nodes = {at: reward}
    if isinstance(reward, CompositeReward):
        nodes |= {f"{at}.parts.{name}": part for name, part in reward.parts.items()}
    if isinstance(reward, ProcessReward):
        nodes |= {f"{at}.part": reward.part}
    return {key: node for key, node in nodes.items() if isinstance(node, ClassifierReward)}


_PART_REWARDS = {kind: schema for kind, schema in REWARDS.items() if kind not in ("none", "composite", "process")}
"""What may be a part of another reward."""


def _reward(values: Any, at: str) -> Any:
    """The reward that stands at a key, its parts typed; a composite's weights are held to its parts."""
    reward = _by_kind(REWARDS, values, at)
    if isinstance(reward, ProcessReward):
        reward.part = _by_kind(_PART_REWARDS, reward.part, f"{at}.part")
    if isinstance(reward, CompositeReward):
        for name, part in reward.parts.items():
            reward.parts[name] = _by_kind(_PART_REWARDS, part, f"{at}.parts.{name}")
        if set(reward.weights) != set(reward.parts):
            raise UsageError(
                f"{at}.weights has {', '.join(reward.weights)} and {at}.parts has {', '.join(reward.parts)}: "
                "give each part a weight."
            )
    return reward


def _typed(cls: type, values: Any, at: str) -> Any:
    """`values` as an instance of the dataclass `cls`; `at` is the dotted key that they stand at."""
    where = f"{at}." if at else ""
    if not isinstance(values, dict):
        raise UsageError(f"{at}={values} must be a group of settings ({', '.join(f.name for f in fields(cls))}).")
    try:
        node = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except ConfigKeyError as error:
        raise UsageError(unknown_key(where + (error.full_key or str(error.key)))) from error
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
            allowed = f.metadata.get("choices")
            if allowed and value not in allowed:
                raise UsageError(
                    f"{key}={value} is not known: choose from {', '.join(allowed)}{nearest(value, list(allowed)) or '.'}"
                )
            for limit, broken, words in (
                ("min", lambda v, m: v < m, "at least"),
                ("above", lambda v, m: not v > m, "greater than"),
                ("max", lambda v, m: v > m, "at most"),
            ):
                bound = f.metadata.get(limit)
                if bound is not None and (broken(value, bound) or value != value):
                    raise UsageError(f"{key}={value} is out of range: it must be {words} {bound}.")


def _by_kind(schemas: dict[str, type], values: Any, at: str) -> Any:
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in schemas:
        raise UsageError(
            f"{at}.kind={kind} is not known: choose from {', '.join(schemas)}{nearest(str(kind), list(schemas)) or '.'}"
        )
    return _typed(schemas[kind], values, at)


def _check_sampler(config: Config) -> None:
    s = config.sampler
    if config.benchmark.answers > 1 and not _draws(s):
        raise UsageError(
            f"benchmark.answers={config.benchmark.answers} would all be the same: with sampler.temperature=0 nothing "
            "is drawn at random. Set sampler.temperature above 0, or benchmark.answers=1."
        )
    _check_methods(config)
    if s.gen_length % s.block_length:
        divisors = [n for n in range(1, s.gen_length + 1) if s.gen_length % n == 0]
        raise UsageError(
            f"sampler.block_length={s.block_length} does not divide sampler.gen_length={s.gen_length}: "
            f"choose from {', '.join(map(str, divisors))}."
        )
    if s.steps is not None and s.tokens_per_step is not None:
        raise UsageError(
            f"sampler.steps={s.steps} and sampler.tokens_per_step={s.tokens_per_step} are both set: set one, null the other."
        )
    if s.steps is not None and s.steps % s.blocks:
        raise UsageError(
            f"sampler.steps={s.steps} is not a multiple of the {s.blocks} blocks "
            f"(gen_length {s.gen_length} / block_length {s.block_length}): choose {s.blocks}, {2 * s.blocks}, …"
        )
    if s.steps is not None and s.steps > s.gen_length:
        raise UsageError(
            f"sampler.steps={s.steps} is out of range: it must be at most sampler.gen_length={s.gen_length}."
        )
    if s.tokens_per_step is not None and s.tokens_per_step > s.block_length:
        raise UsageError(
            f"sampler.tokens_per_step={s.tokens_per_step} is out of range: "
            f"it must be at most sampler.block_length={s.block_length}."
        )
    if isinstance(s.guidance, RewardGuidance):
        if isinstance(config.reward, NoReward):
            raise UsageError(
                "sampler.guidance.kind=rws needs a reward: choose reward=tiny or another, not reward=none."
            )
        if s.guidance.normalize == "none" and isinstance(config.reward, ConstantReward) and config.reward.value <= 0:
            raise UsageError(
                f"reward.value={config.reward.value} cannot scale logits with sampler.guidance.normalize=none: it must be greater than 0."
            )


def _draws(sampler: Sampler) -> bool:
    """Whether two decodings of one prompt can differ."""
    by_chance = sampler.order == "random" or sampler.order_temperature > 0 or sampler.schedule.kind == "remdm"
    return sampler.temperature > 0 or by_chance or getattr(sampler.schedule, "origin", False)


def _check_methods(config: Config) -> None:
    """Parts of a sampler that do not go together, or lack what they need."""
    s = config.sampler
    schedule, search, kind = s.schedule, s.search, s.schedule.kind
    counted = "steps" if s.steps is not None else "tokens_per_step" if s.tokens_per_step is not None else None
    needs_reward = {
        "sampler.guidance.kind=entrgi": isinstance(s.guidance, EntrgiGuidance),
        f"sampler.search.kind={search.kind}": isinstance(search, BestOfN | FkSteering),
        "sampler.review.kind=r3": not isinstance(s.review, NoReview),
    }
    for part, needs in needs_reward.items():
        if needs and isinstance(config.reward, NoReward):
            raise UsageError(f"{part} needs a reward: choose reward=tiny or another, not reward=none.")
    if isinstance(s.guidance, EntrgiGuidance) and not isinstance(config.reward, ClassifierReward):
        raise UsageError(
            f"sampler.guidance.kind=entrgi follows the reward's gradient, and reward={config.reward.name} has none: "
            "choose reward=tiny, reward=classifier or a preset of a reward model."
        )
    if isinstance(s.guidance, EntrgiGuidance) and config.reward.needs_remote_code:
        raise UsageError(
            f"sampler.guidance.kind=entrgi reads embeddings, which reward={config.reward.name}'s own Python does not take."
        )
    if counted and kind not in COUNTED:
        raise UsageError(
            f"sampler.{counted} is not read by sampler.schedule.kind={kind}, which takes as many steps as it needs: "
            f"set sampler.{counted}=null."
        )
    if (s.order == "pc") != (s.pc is not None):
        raise UsageError("sampler.order=pc and the settings sampler.pc go together: choose sampler=pc.")
    if isinstance(schedule, RemdmSchedule):
        on, off = schedule.t_on, schedule.t_off
        if (on is None) != (off is None) or (on is not None and off is not None and off >= on):
            raise UsageError(
                f"sampler.schedule.t_on={on} and t_off={off} must both be null, or t_off the smaller: time runs from 1 to 0."
            )
    if kind == "refine" and schedule.remask > s.block_length * schedule.fill:
        raise UsageError(
            f"sampler.schedule.remask={schedule.remask} is more than the share {schedule.fill} of a block of "
            f"{s.block_length} that stands by then."
        )
    if kind == "wino" and config.model.kind == "dream":
        raise UsageError(
            "sampler.schedule.kind=wino does not fit model.kind=dream, whose logits are read one place early."
        )
    if kind == "wino" and (s.cfg_scale > 0 or config.model.attention == "flash_attention_2"):
        raise UsageError(
            "sampler.schedule.kind=wino asks the model about a block twice in one pass, which goes neither with "
            "sampler.cfg_scale nor with model.attention=flash_attention_2."
        )
    remasks = kind in REMASKING or not isinstance(s.review, NoReview)
    if remasks and s.eos == "stop":
        raise UsageError("sampler.eos=stop ends answers that a method which masks tokens again may still change.")
    if remasks and isinstance(s.guidance, ReplayGuidance):
        raise UsageError("sampler.guidance.kind=replay needs a method that never masks a token again.")
    if not isinstance(s.review, NoReview) and kind not in ("fixed", "threshold", "factor", "eb"):
        raise UsageError(
            f"sampler.review.kind=r3 refills what it masks again by sampler.schedule.kind=fixed, threshold, factor or eb, not {kind}."
        )
    if isinstance(search, NoSearch):
        return
    if search.particles > 1 and not _draws(s):
        raise UsageError(
            f"sampler.search.kind={search.kind} would decode {search.particles} equal particles: with "
            "sampler.temperature=0 nothing is drawn at random. Set sampler.temperature=1."
        )
    if isinstance(s.guidance, ReplayGuidance):
        raise UsageError("sampler.guidance.kind=replay follows one decoding and does not go together with a search.")
    if search.kind != "best_of_n" and remasks:
        raise UsageError(
            f"sampler.search.kind={search.kind} weighs what stands, and this sampler masks tokens again: use best_of_n."
        )
    if isinstance(search, FkSteering) and ((kind != "fixed" and kind != "dream") or getattr(schedule, "origin", False)):
        raise UsageError(
            f"sampler.search.kind={search.kind} needs particles that commit alike: sampler.schedule.kind=fixed or dream, not {kind}."
        )
    if isinstance(search, FkSteering) and search.fill == "argmax" and search.completions > 1:
        raise UsageError(
            f"sampler.search.completions={search.completions} would all be the same: set sampler.search.fill=sample."
        )


def _check_remote_code(node: Model | ClassifierReward, at: str) -> None:
    if isinstance(node, ClassifierReward) and node.needs_remote_code and not node.remote_code:
        raise UsageError(
            f"{at}={node.name} is loaded by the Python that comes with {node.path}, which runs only if you say so: set "
            f"remote_code=true and pins.{node.name}=<the full 40-digit commit hash that you trust>."
        )
    if node.remote_code and not re.fullmatch(r"[0-9a-f]{40}", node.revision or ""):
        raise UsageError(
            f"{at}.remote_code=true runs Python from {node.path}: pin it with {at}.revision=<the full 40-digit commit hash>."
        )


def _check_metric(name: str, metric: Metric, remote_code: bool) -> None:
    ours = sorted(path.name for path in MODULES.iterdir() if (path / f"{path.name}.py").is_file())
    if metric.module in ours or Path(metric.module).expanduser().exists():
        return
    if not remote_code or not re.fullmatch(r"[0-9a-f]{40}", metric.revision or ""):
        raise UsageError(
            f"metric.{name}.module={metric.module} is none of ours ({', '.join(ours)}) and no folder here. From the Hugging "
            f"Face hub it is Python that runs only if you say so: set remote_code=true and +metric.{name}.revision=<the "
            "full 40-digit commit hash that you trust>."
        )


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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


def unknown_key(key: str) -> str:
    """The sentence for a key that is no setting."""
    keys = known_keys()
    hint = nearest(key, keys)
    if not hint:  # a right name in the wrong place
        ends = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
        hint = f"; did you mean {ends[0]}?" if ends else ""
    siblings = [k for k in keys if k.rpartition(".")[0] == key.rpartition(".")[0]]
    allowed = f" Settings there: {', '.join(k.rsplit('.', 1)[-1] for k in siblings)}." if siblings and not hint else ""
    return f"{key} is not a setting here{hint or '.'}{allowed}"


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides the results."""
    return {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}


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
        flat |= _flat(value, f"{at}{key}.") if isinstance(value, dict) else {at + key: value}
    return flat
