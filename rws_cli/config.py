"""The typed configuration: what may be set, of which type and within which range. Defaults live in conf/ alone.

`check` turns a composed configuration into a `Config`, or says in one sentence what is wrong with it. It needs no
weights and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rws_cli.errors import UsageError, nearest

PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
ASSETS = PACKAGE / "assets"
GROUPS = ("model", "reward", "sampler", "benchmark", "experiment", "runtime")
LISTED_GROUPS = GROUPS[:5]
BUNDLED = "bundled:"


def limits(**allowed: Any) -> dict[str, Any]:
    """What a setting may be, for its field's metadata: choices=(…), min=…, above=…, max=…"""
    return allowed


DTYPES = ("auto", "float32", "bfloat16", "float16")


# --- models -------------------------------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """Where weights are and how they are loaded.

    path: a folder, "bundled:NAME", or a name on the Hugging Face hub (with `revision`).
    remote_code: run the checkpoint's own Python; needs `revision` to be a full commit hash.
    """

    name: str
    kind: str
    path: str
    revision: str | None
    dtype: str = field(metadata=limits(choices=DTYPES))
    device: str
    device_map: str | None
    attention: str = field(metadata=limits(choices=("sdpa", "eager", "flash_attention_2")))
    remote_code: bool


@dataclass
class Model(Checkpoint):
    """A masked diffusion model.

    kind: the family, which says how weights and logits are read.
    mask_token_id: overrides what the checkpoint says.
    """

    kind: str = field(metadata=limits(choices=("llada", "dream", "masked_lm")))
    mask_token_id: int | None = field(metadata=limits(min=0))
    chat_template: bool


# --- rewards ------------------------------------------------------------------------------------------------------


@dataclass
class NoReward:
    name: str
    kind: str


@dataclass
class ClassifierReward(Checkpoint):
    """A reward model: any AutoModelForSequenceClassification with one label.

    statistics: a JSON file with the score's mean, std, min and max; null reads normalization.json of the checkpoint.
    max_length: longer texts are an error, in tokens; null takes the model's own limit.
    """

    batch_size: int = field(metadata=limits(min=1))
    statistics: str | None
    max_length: int | None = field(metadata=limits(min=1))


@dataclass
class VerifierReward:
    """The benchmark's own partial credit: an oracle, for ablations only."""

    name: str
    kind: str


@dataclass
class ShuffledReward:
    """Scores of other examples, drawn from those stored for the same fill level in `statistics`: a control."""

    name: str
    kind: str
    statistics: str


@dataclass
class ConstantReward:
    name: str
    kind: str
    value: float


REWARDS = {
    "none": NoReward,
    "classifier": ClassifierReward,
    "verifier": VerifierReward,
    "shuffled": ShuffledReward,
    "constant": ConstantReward,
}


# --- samplers -----------------------------------------------------------------------------------------------------


@dataclass
class NoGuidance:
    kind: str


@dataclass
class TemperatureGuidance:
    """Constant scale of the logits, the control that every claim for RWS needs."""

    kind: str
    scale: float = field(metadata=limits(above=0.0))


@dataclass
class RewardGuidance:
    """Reward-Weighted Sampling. What the paper leaves open is an option here; see decoding/guidance.py for each."""

    kind: str
    strength: float = field(metadata=limits(min=0.0))
    form: str = field(metadata=limits(choices=("identity", "linear", "exponential", "floored")))
    normalize: str = field(metadata=limits(choices=("none", "zscore", "minmax", "sigmoid")))
    fill: str = field(metadata=limits(choices=("argmax", "sample", "drop", "keep")))
    target: str = field(metadata=limits(choices=("all", "proposed")))
    every: int = field(metadata=limits(min=1))
    floor: float = field(metadata=limits(above=0.0))


GUIDANCES = {"none": NoGuidance, "temperature": TemperatureGuidance, "rws": RewardGuidance}
ORDERS = ("confidence", "margin", "entropy", "random", "left_to_right")


@dataclass
class Sampler:
    """How a response is decoded. Lengths are in tokens; `steps` counts over the whole response.

    steps, tokens_per_step: one of them; both null is one token a step.
    confidence: orders read the untempered softmax (raw), or the one that tokens are drawn from (tempered).
    eos: none; suppress (end tokens are committed last); stop (done once an end token has nothing masked before it).
    """

    name: str
    order: str = field(metadata=limits(choices=ORDERS))
    gen_length: int = field(metadata=limits(min=1))
    block_length: int = field(metadata=limits(min=1))
    steps: int | None = field(metadata=limits(min=1))
    tokens_per_step: int | None = field(metadata=limits(min=1))
    temperature: float = field(metadata=limits(min=0.0))
    top_p: float = field(metadata=limits(above=0.0, max=1.0))
    cfg_scale: float = field(metadata=limits(min=0.0))
    confidence: str = field(metadata=limits(choices=("raw", "tempered")))
    eos: str = field(metadata=limits(choices=("none", "suppress", "stop")))
    guidance: Any

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        if self.steps is not None:
            return self.steps // self.blocks
        return -(-self.block_length // (self.tokens_per_step or 1))


# --- benchmark, runtime, the whole --------------------------------------------------------------------------------


@dataclass
class GeneratedBenchmark:
    """limit: how many examples; seed: of the generator (not of decoding); gen_length: what its answers need."""

    name: str
    kind: str
    limit: int = field(metadata=limits(min=1))
    seed: int
    gen_length: int = field(metadata=limits(min=1))


@dataclass
class DataBenchmark:
    """Rows of a data set on the Hugging Face hub, or of a local file with the same fields.

    hub, subset, split, revision: the data set; path: a .jsonl, .json, .csv or .parquet file instead of it.
    limit: the first so many rows; null is all.
    shots: solved examples before each question, the first of shots_split, or of the file shots_path.
    template: the prompt; {fields} in braces are the data set's, or the benchmark's own.
    """

    name: str
    kind: str
    hub: str | None
    subset: str | None
    split: str
    revision: str | None
    path: str | None
    limit: int | None = field(metadata=limits(min=1))
    shots: int = field(metadata=limits(min=0))
    shots_split: str
    shots_path: str | None
    template: str
    gen_length: int = field(metadata=limits(min=1))


@dataclass
class CodeBenchmark(DataBenchmark):
    """Programs to write. They are run to be marked, in a sandbox (see benchmarks/sandbox.py) and only if allowed.

    seconds, memory_mb: what each program may use.
    """

    allow_code_execution: bool
    seconds: float = field(metadata=limits(above=0.0))
    memory_mb: int = field(metadata=limits(min=64))


BENCHMARKS = {
    "sudoku": GeneratedBenchmark,
    "arithmetic": GeneratedBenchmark,
    "gsm8k": DataBenchmark,
    "math": DataBenchmark,
    "countdown": DataBenchmark,
    "sudoku4": DataBenchmark,
    "keywords": DataBenchmark,
    "humaneval": CodeBenchmark,
    "mbpp": CodeBenchmark,
}


@dataclass
class Runtime:
    """What may change without changing a token: rows decoded together, CPU threads (null: as torch chooses)."""

    batch_size: int = field(metadata=limits(min=1))
    threads: int | None = field(metadata=limits(min=1))


@dataclass
class Config:
    seed: int
    output: str
    model: Model
    reward: Any
    sampler: Sampler
    benchmark: Any
    runtime: Runtime


NOT_IDENTITY = ("output", "runtime")
"""Top-level keys that do not change results: left out of the hash, and free to differ at a resume."""


# --- composition and checks ---------------------------------------------------------------------------------------


def choices(group: str) -> dict[str, str]:
    """The choices of a configuration group, name → its first comment line."""
    found = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        if not path.stem.startswith("_"):
            comments = [
                line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line
            ]
            found[path.stem] = comments[0][2:] if comments else ""
    return found


def compose(*overrides: str) -> Config:
    """The checked configuration that `rws run OVERRIDES` would have: for scripts and notebooks. Raises UsageError."""
    import hydra

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return check(hydra.compose("config", list(overrides)))


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
    config.reward = _by_kind(REWARDS, config.reward, "reward")
    config.benchmark = _by_kind(BENCHMARKS, config.benchmark, "benchmark")
    config.sampler.guidance = _by_kind(GUIDANCES, config.sampler.guidance, "sampler.guidance")
    _check_sampler(config)
    _check_remote_code(config.model, "model")
    if isinstance(config.reward, ClassifierReward):
        _check_remote_code(config.reward, "reward")
    return config


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
        hint = get_type_hints(hint).get(part, "another type")
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


def _check_remote_code(node: Model | ClassifierReward, at: str) -> None:
    if node.remote_code and not re.fullmatch(r"[0-9a-f]{40}", node.revision or ""):
        raise UsageError(
            f"{at}.remote_code=true runs Python from {node.path}: pin it with {at}.revision=<the full 40-digit commit hash>."
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
    for cls in GUIDANCES.values():
        keys += walk(cls, "sampler.guidance.")
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
