"""The settings of a run: what may be set, of which type and within which range. Defaults live in conf/;
one that stands here turns its setting off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rws_cli.part import setting

# --- samplers -----------------------------------------------------------------------------------------------------


@dataclass
class Sampler:
    """How a response is decoded. One of steps and tokens_per_step counts; both null is one token a step."""

    name: str
    order: Any = setting("which open positions come first; an order's own settings stand at sampler.NAME", role="order")
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
    guidance: Any = setting("what changes logits before the order reads them; see rws list guidance", role="guidance")
    schedule: Any = setting("how many positions a step commits", role="schedule")
    remasking: Any = setting("what looks at finished blocks again", role="remasking")
    search: Any = setting("how several answers to a prompt compete; see rws list search", role="search")
    ties: str = setting(
        "which of equal scores comes first: the leftmost position, or the token of higher untempered probability",
        "leftmost",
        choices=("leftmost", "probability"),
    )

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that a sampler is made of."""
        return {name: getattr(self, name) for name in ("order", "schedule", "guidance", "remasking", "search")}

    @property
    def draws(self) -> bool:
        """Whether two decodings of one prompt can differ."""
        return self.temperature > 0 or self.order_temperature > 0 or self.order.draws or self.schedule.draws

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
    """What may change without changing a token; but a cache is approximate, see decoding/cache.py."""

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
    address: str | None = setting("of a cluster, as Ray's init takes it; null: one of its own on this machine")
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
    plot: str | None = setting("a picture of a sweep, at its end", choices=("pareto",))
    trust_remote_code: bool = setting(
        "let presets that need it run the Python of their checkpoint, at the commit in pins"
    )
    pins: dict[str, str | None] = setting("preset → the full commit hash whose Python you trust")
    model: Any = setting("the masked diffusion model")
    reward: Any = setting("what scores whole and partly decoded answers")
    sampler: Sampler = setting("how a response is decoded")
    benchmark: Any = setting("what is asked, and how answers are graded")
    metric: dict[str, Any] = setting("measures of texts, e.g. metric=[length,diversity]", role="metric")
    judge: Any = setting("who says which of two answers is better")
    runtime: Runtime = setting("what may change without changing a token")
    objective: str | None = setting(
        "what a job returns to an optimizing sweeper: a number's key in metrics.json, such as accuracy", default=None
    )  # runs of before have none
