"""The settings of a run: what may be set, of which type and within which range. Defaults live in conf/ alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def limits(**allowed: Any) -> dict[str, Any]:
    """What a setting may be, for its field's metadata: choices=(…), min=…, above=…, max=…"""
    return allowed


DTYPES = ("auto", "float32", "bfloat16", "float16")


# --- models -------------------------------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """Where weights are and how they are loaded.

    path: a folder, "bundled:NAME", or a name on the Hugging Face hub (with `revision`).
    trust_remote_code: run the checkpoint's own Python; needs `revision` to be a full commit hash.
    quantization: weights in 8 or 4 bits, by bitsandbytes.
    """

    name: str
    kind: str
    path: str
    revision: str | None
    dtype: str = field(metadata=limits(choices=DTYPES))
    device: str
    device_map: str | None
    attention: str = field(metadata=limits(choices=("sdpa", "eager", "flash_attention_2")))
    trust_remote_code: bool
    quantization: str = field(metadata=limits(choices=("none", "8bit", "4bit")))


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
    """A reward model: any AutoModelForSequenceClassification with one label, or what a checkpoint's own Python makes.

    auto_class: the class of transformers that loads it. needs_remote_code: whether only its own Python can.
    score_from: where the score is in what it returns: its field logits or score, or the whole output.
    template: a chat template (Jinja) in place of the tokenizer's.
    statistics: a JSON file with the score's mean, std, min and max; null reads normalization.json of the checkpoint.
    max_length: longer texts are an error, in tokens; null takes the model's own limit.
    """

    auto_class: str = field(metadata=limits(choices=("AutoModelForSequenceClassification", "AutoModel")))
    needs_remote_code: bool
    score_from: str = field(metadata=limits(choices=("logits", "score", "output")))
    template: str | None
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


@dataclass
class CompositeReward:
    """A weighted sum of rewards, each normalized by its own statistics. `weights` has a number for each of `parts`."""

    name: str
    kind: str
    parts: dict[str, Any]
    weights: dict[str, float]
    statistics: str | None


@dataclass
class ProcessReward:
    """A reward given to an answer as far as the end of each of its parts, and joined to one score.

    parts: step (lines of text) or block (sampler.block_length tokens). join: their mean, the least, or the last.
    """

    name: str
    kind: str
    part: Any
    parts: str = field(metadata=limits(choices=("step", "block")))
    join: str = field(metadata=limits(choices=("mean", "min", "last")))
    statistics: str | None


REWARDS = {
    "none": NoReward,
    "classifier": ClassifierReward,
    "verifier": VerifierReward,
    "shuffled": ShuffledReward,
    "constant": ConstantReward,
    "composite": CompositeReward,
    "process": ProcessReward,
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
    reward_every: int = field(metadata=limits(min=1))
    floor: float = field(metadata=limits(above=0.0))


@dataclass
class ReplayGuidance:
    """The scales that a finished run of Reward-Weighted Sampling recorded; see decoding/replay.py for each `how`."""

    kind: str
    run: str
    how: str = field(metadata=limits(choices=("own", "constant", "schedule", "shuffled")))


@dataclass
class EntrgiGuidance:
    """Gradients of a reward model, through embeddings mixed by entropy (EntRGi, arXiv 2602.05000); see
    rewards/gradient.py. steps: gradient steps a decoding step; rate: Adam's; temperature: of the mixture."""

    kind: str
    steps: int = field(metadata=limits(min=1))
    rate: float = field(metadata=limits(above=0.0))
    temperature: float = field(metadata=limits(above=0.0))


GUIDANCES = {
    "none": NoGuidance,
    "temperature": TemperatureGuidance,
    "rws": RewardGuidance,
    "replay": ReplayGuidance,
    "entrgi": EntrgiGuidance,
}
ORDERS = ("confidence", "margin", "entropy", "random", "left_to_right", "pc")


@dataclass
class PcOrder:
    """PC-Sampler's. decay: λ, a position; cap: α. frequencies: a file that rws corpus wrote; null reads frequencies.json
    of the model's checkpoint."""

    decay: float = field(metadata=limits(min=0.0))
    cap: float = field(metadata=limits(above=0.0))
    frequencies: str | None


# Schedules: what they do stands at the class of the same name in decoding/schedules.py.


@dataclass
class FixedSchedule:
    kind: str


@dataclass
class ThresholdSchedule:
    kind: str
    threshold: float = field(metadata=limits(above=0.0, max=1.0))


@dataclass
class FactorSchedule:
    kind: str
    factor: float = field(metadata=limits(above=0.0))


@dataclass
class EntropyBoundSchedule:
    kind: str
    gamma: float = field(metadata=limits(min=0.0))


@dataclass
class KlassSchedule:
    kind: str
    threshold: float = field(metadata=limits(above=0.0, max=1.0))
    kl: float = field(metadata=limits(above=0.0))
    history: int = field(metadata=limits(min=1))


@dataclass
class ProphetSchedule:
    """Gaps between the two highest logits, in the first, second and last third of a block's steps."""

    kind: str
    early: float = field(metadata=limits(min=0.0))
    middle: float = field(metadata=limits(min=0.0))
    late: float = field(metadata=limits(min=0.0))


@dataclass
class DreamSchedule:
    kind: str
    eps: float = field(metadata=limits(above=0.0, max=0.5))
    origin: bool


@dataclass
class RemdmSchedule:
    """t_on, t_off: between them α holds and tokens are masked again, only there; both null: always, and α never holds."""

    kind: str
    sigma: str = field(metadata=limits(choices=("cap", "rescale", "conf")))
    eta: float = field(metadata=limits(min=0.0, max=1.0))
    t_on: float | None = field(metadata=limits(above=0.0, max=1.0))
    t_off: float | None = field(metadata=limits(above=0.0, max=1.0))


@dataclass
class RefineSchedule:
    kind: str
    fill: float = field(metadata=limits(above=0.0, max=1.0))
    rounds: int = field(metadata=limits(min=0))
    remask: int = field(metadata=limits(min=1))


@dataclass
class WinoSchedule:
    """most: tokens committed a step; null is no limit."""

    kind: str
    threshold: float = field(metadata=limits(above=0.0, max=1.0))
    verify: float = field(metadata=limits(min=0.0, max=1.0))
    most: int | None = field(metadata=limits(min=1))


SCHEDULES = {
    "fixed": FixedSchedule,
    "threshold": ThresholdSchedule,
    "factor": FactorSchedule,
    "eb": EntropyBoundSchedule,
    "klass": KlassSchedule,
    "prophet": ProphetSchedule,
    "dream": DreamSchedule,
    "remdm": RemdmSchedule,
    "refine": RefineSchedule,
    "wino": WinoSchedule,
}
COUNTED = ("fixed", "prophet", "dream", "remdm", "refine")
"""Schedules that read sampler.steps and tokens_per_step; the others take as many steps as they need."""
REMASKING = ("remdm", "refine", "wino")


@dataclass
class NoReview:
    kind: str


@dataclass
class R3Review:
    """R3 (arXiv 2507.08018); see decoding/review.py. rounds: at most so many reviews a block; window: blocks reviewed."""

    kind: str
    threshold: float = field(metadata=limits(above=0.0, max=1.0))
    rounds: int = field(metadata=limits(min=1))
    window: int = field(metadata=limits(min=1))
    choose: str = field(metadata=limits(choices=("confidence", "random")))


REVIEWS = {"none": NoReview, "r3": R3Review}


# Searches: see decoding/search.py. particles: answers to one prompt that are decoded side by side.


@dataclass
class NoSearch:
    kind: str


@dataclass
class BestOfN:
    kind: str
    particles: int = field(metadata=limits(min=1))


@dataclass
class SelfRewardingSmc:
    """ess: resample at a block's end where the effective sample size is below this share of the particles."""

    kind: str
    particles: int = field(metadata=limits(min=1))
    ess: float = field(metadata=limits(min=0.0, max=1.0))
    ending: str = field(metadata=limits(choices=("best", "draw")))


@dataclass
class FkSteering:
    """beta: of the target p(x)·exp(r(x)/β). every: steps between resamplings. completions: of each intermediate sequence,
    drawn (sample) or the likeliest (argmax, one)."""

    kind: str
    particles: int = field(metadata=limits(min=1))
    beta: float = field(metadata=limits(above=0.0))
    potential: str = field(metadata=limits(choices=("difference", "max", "sum")))
    every: int = field(metadata=limits(min=1))
    completions: int = field(metadata=limits(min=1))
    fill: str = field(metadata=limits(choices=("argmax", "sample")))
    ending: str = field(metadata=limits(choices=("best", "draw")))


@dataclass
class ParticleGibbs(FkSteering):
    """sweeps: how often; from the second on the first particle is the answer that the sweep before ended with."""

    sweeps: int = field(metadata=limits(min=1))


SEARCHES = {
    "none": NoSearch,
    "best_of_n": BestOfN,
    "smc": SelfRewardingSmc,
    "fk": FkSteering,
    "particle_gibbs": ParticleGibbs,
}


@dataclass
class Sampler:
    """How a response is decoded. Lengths are in tokens; `steps` counts over the whole response.

    steps, tokens_per_step: one of them; both null is one token a step.
    order_temperature: 0 commits the highest scores; above, positions are drawn from softmax(score / temperature).
    confidence: orders read the untempered softmax (raw), or the one that tokens are drawn from (tempered).
    eos: none; suppress (end tokens are committed last); stop (done once an end token has nothing masked before it).
    """

    name: str
    order: str = field(metadata=limits(choices=ORDERS))
    gen_length: int = field(metadata=limits(min=1))
    block_length: int = field(metadata=limits(min=1))
    steps: int | None = field(metadata=limits(min=1))
    tokens_per_step: int | None = field(metadata=limits(min=1))
    order_temperature: float = field(metadata=limits(min=0.0))
    temperature: float = field(metadata=limits(min=0.0))
    top_p: float = field(metadata=limits(above=0.0, max=1.0))
    cfg_scale: float = field(metadata=limits(min=0.0))
    confidence: str = field(metadata=limits(choices=("raw", "tempered")))
    eos: str = field(metadata=limits(choices=("none", "suppress", "stop")))
    guidance: Any
    schedule: Any
    review: Any
    search: Any
    pc: PcOrder | None

    @property
    def particles(self) -> int:
        return getattr(self.search, "particles", 1)

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
    """limit: how many examples; seed: of the generator (not of decoding); gen_length: what its answers need.

    answers: how often each example is answered. turns: how many successive examples make one conversation.
    """

    name: str
    kind: str
    limit: int = field(metadata=limits(min=1, max=1_000_000))
    answers: int = field(metadata=limits(min=1, max=10_000))
    turns: int = field(metadata=limits(min=1, max=1_000))
    seed: int
    gen_length: int = field(metadata=limits(min=1))


@dataclass
class DataBenchmark:
    """Rows of a data set on the Hugging Face hub, or of a local file with the same fields.

    hub, subset, split, revision: the data set; path: a .jsonl, .json, .csv or .parquet file instead of it.
    limit: the first so many rows; null is all. answers: how often each is answered.
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
    answers: int = field(metadata=limits(min=1))
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
    "mt_bench": DataBenchmark,
    "instructions": DataBenchmark,
    "humaneval": CodeBenchmark,
    "mbpp": CodeBenchmark,
}


# --- judges of a sweep's runs -------------------------------------------------------------------------------------


@dataclass
class NoJudge:
    name: str
    kind: str


@dataclass
class RewardJudge:
    """A reward; scores within `margin` of each other are a tie."""

    name: str
    kind: str
    reward: Any
    margin: float = field(metadata=limits(min=0.0))


@dataclass
class CausalJudge:
    """A causal language model on this machine; see judges/local.py. template: what it is asked, with {question},
    {answer_a} and {answer_b}."""

    name: str
    kind: str
    path: str
    file: str | None
    revision: str | None
    dtype: str = field(metadata=limits(choices=DTYPES))
    device: str
    batch_size: int = field(metadata=limits(min=1))
    margin: float = field(metadata=limits(min=0.0))
    template: str


@dataclass
class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint; see judges/endpoint.py. key_env: the environment variable that holds
    the key. Prices are in dollars for a million tokens."""

    name: str
    kind: str
    model: str
    base_url: str | None
    key_env: str
    temperature: float = field(metadata=limits(min=0.0))
    max_tokens: int = field(metadata=limits(min=1))
    parallel: int = field(metadata=limits(min=1))
    requests_per_minute: float | None = field(metadata=limits(above=0.0))
    retries: int = field(metadata=limits(min=0))
    timeout_seconds: float = field(metadata=limits(above=0.0))
    cache: str | None
    dollars_per_million_in: float | None = field(metadata=limits(min=0.0))
    dollars_per_million_out: float | None = field(metadata=limits(min=0.0))
    max_dollars: float = field(metadata=limits(min=0.0))
    template: str


JUDGES = {"none": NoJudge, "reward": RewardJudge, "causal": CausalJudge, "endpoint": EndpointJudge}


@dataclass
class Metric:
    """A module of the library evaluate: one of metrics/modules, a script's folder, or a name on the Hugging Face hub,
    which is Python from there: it needs trust_remote_code=true and `revision` to be a full commit hash."""

    module: str
    revision: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Table:
    """What rws table shows of a sweep. columns: measures; published: label → column → what a paper says, as it says it."""

    title: str
    columns: list[str]
    note: str = ""
    published: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Runtime:
    """What may change without changing a token: rows decoded together (null: answering.automatic_batch), CPU threads
    (null: as torch chooses), whether the model is compiled, and whether each example is decoded alone, so that no
    kernel's rounding can depend on others (deterministic). backend, workers, address: who decodes; see workers.py. And a cache, which is approximate: see models/cache.py.

    cache_refresh: passes of a row from one through its whole sequence to the next; null: one a block.
    """

    batch_size: int | None = field(metadata=limits(min=1))
    threads: int | None = field(metadata=limits(min=1))
    compile: bool
    deterministic: bool
    cache: str = field(metadata=limits(choices=("none", "prefix", "dual")))
    cache_refresh: int | None = field(metadata=limits(min=1))
    backend: str = field(metadata=limits(choices=("here", "processes", "ray")))
    workers: int | None = field(metadata=limits(min=1))
    address: str | None


@dataclass
class Config:
    """draw: a picture of a sweep, at its end. trust_remote_code, pins: what the presets of checkpoints that need their own Python take for theirs; see README."""

    seed: int
    output: str
    label: str | None
    table: Table | None
    draw: str | None = field(metadata=limits(choices=("pareto",)))
    trust_remote_code: bool
    pins: dict[str, str | None]
    model: Model
    reward: Any
    sampler: Sampler
    benchmark: Any
    metric: dict[str, Metric]
    judge: Any
    runtime: Runtime
