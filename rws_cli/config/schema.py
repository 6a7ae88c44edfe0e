"""The settings of a run: what may be set, of which type and within which range. Defaults live in conf/;
one that stands here turns its setting off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rws_cli.part import setting

# --- samplers -----------------------------------------------------------------------------------------------------


@dataclass
class NoGuidance:
    kind: str


@dataclass
class TemperatureGuidance:
    """Constant scale of the logits, the control that every claim for RWS needs."""

    kind: str
    scale: float = setting("what the logits are multiplied by, 1 / temperature", above=0.0)


@dataclass
class RewardGuidance:
    """Reward-Weighted Sampling. What the paper leaves open is an option here; see decoding/guidance.py for each."""

    kind: str
    strength: float = setting("λ, how much of the reward goes into the scale (linear, exponential)", min=0.0)
    form: str = setting(
        "the scale of a normalized reward r: r, 1 + λr, exp(λr) or max(floor, r)",
        choices=("identity", "linear", "exponential", "floored"),
    )
    normalize: str = setting(
        "how a score becomes r: as it is, or by the reward's statistics",
        choices=("none", "zscore", "minmax", "sigmoid"),
    )
    fill: str = setting(
        "how masks are shown to the reward: the likeliest token, a drawn one, left out or as they are",
        choices=("argmax", "sample", "drop", "keep"),
    )
    target: str = setting("which logits are scaled: all, or only the proposed token's", choices=("all", "proposed"))
    reward_every: int = setting("steps between reward calls; the last scale holds in between", min=1)
    floor: float = setting("the least scale", above=0.0)


@dataclass
class ReplayGuidance:
    """The scales that a finished run of Reward-Weighted Sampling recorded; see decoding/replay.py for each `how`."""

    kind: str
    run: str = setting("the folder of a finished run of sampler=rws")
    how: str = setting(
        "each example's own scales, their mean, the mean at each step, or another example's",
        choices=("own", "constant", "schedule", "shuffled"),
    )


@dataclass
class EntrgiGuidance:
    """Gradients of a reward model, through embeddings mixed by entropy (EntRGi, arXiv 2602.05000); see
    rewards/gradient.py."""

    kind: str
    steps: int = setting("gradient steps in a decoding step", min=1)
    rate: float = setting("Adam's learning rate", above=0.0)
    temperature: float = setting("τ, of the mixture of embeddings", above=0.0)


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
    """PC-Sampler's (arXiv 2508.13021)."""

    decay: float = setting("λ, how fast scores fall from the block's start, a position", min=0.0)
    cap: float = setting("α, the most that a score can be before it decays", above=0.0)
    frequencies: str | None = setting("a file that rws corpus wrote; null: frequencies.json of the model's checkpoint")


# Schedules: what they do stands at the class of the same name in decoding/schedules.py.


@dataclass
class FixedSchedule:
    kind: str


@dataclass
class ThresholdSchedule:
    kind: str
    threshold: float = setting("probability from which a token is committed", above=0.0, max=1.0)


@dataclass
class FactorSchedule:
    kind: str
    factor: float = setting("f: commit the n surest while (n + 1)(1 − c_n) < f", above=0.0)


@dataclass
class EntropyBoundSchedule:
    kind: str
    gamma: float = setting("γ, the bound on what committed tokens may say of each other, in nats", min=0.0)


@dataclass
class KlassSchedule:
    kind: str
    threshold: float = setting("probability from which a token counts as sure", above=0.0, max=1.0)
    kl: float = setting(
        "KL divergence between two steps below which a distribution counts as at rest, in nats", above=0.0
    )
    history: int = setting("steps that it must have been at rest", min=1)


@dataclass
class ProphetSchedule:
    """Gaps between the two highest logits of the answer region, and where that is."""

    kind: str
    early: float = setting("mean gap of the two highest logits that ends decoding in the first third of steps", min=0.0)
    middle: float = setting("the same in the second third", min=0.0)
    late: float = setting("the same in the last third", min=0.0)
    answer_start: int = setting("first position of the region whose gaps are averaged", 0, min=0)
    answer_length: int | None = setting("its length in tokens; null: to the end", None, min=1)


@dataclass
class DreamSchedule:
    kind: str
    eps: float = setting("ε, the time at which decoding ends; it starts at 1", above=0.0, max=0.5)
    origin: bool = setting("commit each position by chance at this rate, not so many of the highest scores")


@dataclass
class RemdmSchedule:
    """With t_on, t_off and alpha_on tokens are masked again, and α holds, only between them; all three null: always, and α
    never holds."""

    kind: str
    sigma: str = setting(
        "how the probability of masking again is made of eta and its largest value", choices=("cap", "rescale", "conf")
    )
    eta: float = setting(
        "η: the most that it may be (cap), or a share of its largest value (rescale)", min=0.0, max=1.0
    )
    t_on: float | None = setting(
        "time, from 1 down to 0, at which tokens start to be masked again and α holds; null: always, α never holds",
        above=0.0,
        max=1.0,
    )
    t_off: float | None = setting("time at which that ends; null with t_on", above=0.0, max=1.0)
    alpha_on: float | None = setting(
        "α meanwhile, the share of committed tokens; null with t_on", None, above=0.0, max=1.0
    )


@dataclass
class RefineSchedule:
    kind: str
    fill: float = setting("share of a block that is filled before tokens are masked again", above=0.0, max=1.0)
    rounds: int = setting("steps of masking again and refilling", min=0)
    remask: int = setting("tokens masked again in each of them", min=1)


@dataclass
class WinoSchedule:
    kind: str
    threshold: float = setting("probability above which a token is committed", above=0.0, max=1.0)
    verify: float = setting("probability below which, to a shadow blind to it, it is masked again", min=0.0, max=1.0)
    most: int | None = setting("tokens committed a step, at most; null: no limit", min=1)
    share: float | None = setting(
        "share of a block's masks that a step commits, at most; null: no such limit", None, above=0.0, max=1.0
    )
    least: int = setting("tokens that `share` allows, at least", 1, min=1)


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
    """R3 (arXiv 2507.08018); see decoding/review.py."""

    kind: str
    threshold: float = setting("normalized reward below which a block is masked again in part", above=0.0, max=1.0)
    rounds: int = setting("reviews of a block, at most", min=1)
    window: int = setting("blocks reviewed each time, the newest included", min=1)
    choose: str = setting("which tokens go: the least sure, or any", choices=("confidence", "random"))


REVIEWS = {"none": NoReview, "r3": R3Review}


# Searches: see decoding/search.py. particles: answers to one prompt that are decoded side by side.


@dataclass
class NoSearch:
    kind: str


@dataclass
class BestOfN:
    kind: str
    particles: int = setting("answers to one prompt that are decoded side by side", min=1)


@dataclass
class SelfRewardingSmc:
    kind: str
    particles: int = setting("answers to one prompt that are decoded side by side", min=1)
    ess: float = setting(
        "resample at a block's end if the effective sample size is below this share of the particles", min=0.0, max=1.0
    )
    ending: str = setting("return the likeliest particle, or one drawn by weight", choices=("best", "draw"))


@dataclass
class FkSteering:
    kind: str
    particles: int = setting("answers to one prompt that are decoded side by side", min=1)
    beta: float = setting("β of the target p(x)·exp(r(x)/β)", above=0.0)
    potential: str = setting(
        "what a particle is weighed by: the reward's rise since last, its highest, or its sum",
        choices=("difference", "max", "sum"),
    )
    every: int = setting("steps between resamplings", min=1)
    completions: int = setting("completions of each intermediate sequence that are scored", min=1)
    fill: str = setting(
        "what completes it: the likeliest tokens (one completion), or drawn ones", choices=("argmax", "sample")
    )
    ending: str = setting("return the particle of highest reward, or one drawn by weight", choices=("best", "draw"))


@dataclass
class ParticleGibbs(FkSteering):
    sweeps: int = setting("how often all is decoded; from the second on the first particle is the last answer", min=1)


SEARCHES = {
    "none": NoSearch,
    "best_of_n": BestOfN,
    "smc": SelfRewardingSmc,
    "fk": FkSteering,
    "particle_gibbs": ParticleGibbs,
}


@dataclass
class Sampler:
    """How a response is decoded. One of steps and tokens_per_step counts; both null is one token a step."""

    name: str
    order: str = setting("which open positions come first", choices=ORDERS, role="order")
    gen_length: int = setting("length of the answer, in tokens", min=1)
    block_length: int = setting("tokens of a block; blocks are decoded from left to right", min=1)
    steps: int | None = setting("steps over the whole answer; null: by tokens_per_step", min=1)
    tokens_per_step: int | None = setting("tokens committed a step; null with steps null: one", min=1)
    order_temperature: float = setting(
        "0: the highest scores; above: positions drawn from softmax(score / this)", min=0.0
    )
    temperature: float = setting("of tokens; 0: the likeliest", min=0.0)
    top_p: float = setting("tokens are drawn from the likeliest whose mass reaches this", above=0.0, max=1.0)
    cfg_scale: float = setting("w of classifier-free guidance; 0: none, above: twice the passes", min=0.0)
    confidence: str = setting(
        "what orders read: the untempered softmax (raw), the one that tokens are drawn from (tempered), or the untempered "
        "one in the model's dtype, ties and all (model_dtype)",
        choices=("raw", "tempered", "model_dtype"),
    )
    eos: str = setting(
        "suppress: end tokens last; stop: done once one has nothing masked before it; LLaDA's confidence_eos_eot_inf: end "
        "tokens last, and in no confidence; LLaDA's logits_eos_inf: never the end of text",
        choices=("none", "suppress", "stop", "confidence_eos_eot_inf", "logits_eos_inf"),
    )
    guidance: Any = setting("what changes logits before the order reads them; see rws list guidance")
    schedule: Any = setting("how many positions a step commits")
    review: Any = setting("what looks at finished blocks again")
    search: Any = setting("how several answers to a prompt compete; see rws list search")
    pc: PcOrder | None = setting("what order=pc needs; null for other orders")
    ties: str = setting(
        "which of equal scores comes first: the leftmost position, or the token of higher untempered probability",
        "leftmost",
        choices=("leftmost", "probability"),
    )

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


@dataclass
class Table:
    """What rws table shows of a sweep."""

    title: str = setting("its heading")
    columns: list[str] = setting("measures, one a column")
    note: str = setting("a sentence below it", default="")
    published: dict[str, dict[str, Any]] = setting(
        "label → column → what a paper says, as it says it", default_factory=dict
    )


@dataclass
class Runtime:
    """What may change without changing a token; but a cache is approximate, see models/cache.py."""

    batch_size: int | None = setting(
        "rows decoded together; null: by the size of their logits, halved when memory runs out", min=1
    )
    threads: int | None = setting("of the CPU; null: as torch chooses", min=1)
    compile: bool = setting("compile the model (torch.compile): a minute at the start, then faster steps")
    deterministic: bool = setting("decode each example alone, so that rounding cannot depend on its batch; slower")
    cache: str = setting(
        "keys and values kept between steps: approximate, faster where an answer has several blocks",
        choices=("none", "prefix", "dual"),
    )
    cache_refresh: int | None = setting(
        "a row's passes from one through its whole sequence to the next; null: one a block", min=1
    )
    backend: str = setting(
        "who decodes: this process, several on this machine, several that share one model, or a cluster", role="worker"
    )
    workers: int | None = setting(
        "copies, or parts, of the model; null: one a GPU, without GPUs one a core, at most 4, and 2 parts", min=1
    )
    address: str | None = setting("of a Ray cluster, as ray.init takes it; null: one of its own on this machine")
    tracker: str = setting(
        "a library that runs are also logged with; where to is what its own environment variables say", role="tracker"
    )


@dataclass
class Config:
    """All settings of a run."""

    seed: int = setting("of decoding; every random number comes from (seed, example, step)")
    output: str = setting("the folder of runs: <output>/<benchmark>/<model>-<sampler>/vNNN")
    label: str | None = setting("how tables call this run; null: by its sampler, and what else sets it apart")
    table: Table | None = setting("what rws table shows of a sweep")
    draw: str | None = setting("a picture of a sweep, at its end", choices=("pareto",))
    trust_remote_code: bool = setting(
        "let presets that need it run the Python of their checkpoint, at the commit in pins"
    )
    pins: dict[str, str | None] = setting("preset → the full commit hash whose Python you trust")
    model: Any = setting("the masked diffusion model")
    reward: Any = setting("what scores whole and partly decoded answers")
    sampler: Sampler = setting("how a response is decoded")
    benchmark: Any = setting("what is asked, and how answers are marked")
    metric: dict[str, Any] = setting("measures of texts, e.g. metric=[length,diversity]", role="metric")
    judge: Any = setting("who says which of two answers is better")
    runtime: Runtime = setting("what may change without changing a token")
    objective: str | None = setting(
        "what a job returns to an optimizing sweeper: a number's key in metrics.json, such as accuracy", default=None
    )  # runs of before have none
