"""The settings of a run, with types and ranges. Defaults are in conf/; a default here turns its setting off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rws_cli.part import setting

# --- samplers -----------------------------------------------------------------------------------------------------


@dataclass
class Sampler:
    """How a response is decoded. Set steps or tokens_per_step; with both null, one token is committed per step."""

    name: str
    order: Any = setting("which open positions are committed first; its settings are at sampler.NAME", role="order")
    gen_length: int = setting("length of the completion, in tokens", min=1)
    block_length: int = setting("tokens per block; blocks are decoded from left to right", min=1)
    steps: int | None = setting("steps for the whole completion; null: determined by tokens_per_step", min=1)
    tokens_per_step: int | None = setting(
        "tokens committed per step; null: determined by steps, or 1 if that is null too", min=1
    )
    order_temperature: float = setting(
        "0: commit the positions of highest score; above 0: draw them from softmax(score / this)", min=0.0
    )
    temperature: float = setting("temperature for drawing tokens; 0: take the most likely token", min=0.0)
    top_p: float = setting(
        "draw from the most likely tokens whose total probability reaches this (nucleus sampling)", above=0.0, max=1.0
    )
    cfg_scale: float = setting("w of classifier-free guidance; 0: none; above 0 doubles the passes", min=0.0)
    confidence: str = setting(
        "the probabilities that orders use: untempered (raw), those that tokens are drawn from (tempered), or untempered in "
        "the model's dtype, including its ties (model_dtype)",
        choices=("raw", "tempered", "model_dtype"),
    )
    eos: str = setting(
        "suppress: commit end tokens last; stop: end once an end token has no mask before it; stop_block: end after a block "
        "with an end token; confidence_eos_eot_inf (LLaDA): end tokens last, and left out of confidences; logits_eos_inf "
        "(LLaDA): never commit end-of-text",
        choices=("none", "suppress", "stop", "stop_block", "confidence_eos_eot_inf", "logits_eos_inf"),
    )
    guidance: Any = setting(
        "how logits are changed before positions are chosen; see rws list guidance", role="guidance"
    )
    schedule: Any = setting("how many positions are committed per step", role="schedule")
    remasking: Any = setting("how finished blocks are revised", role="remasking")
    search: Any = setting("how several candidate completions of a prompt compete; see rws list search", role="search")
    ties: str = setting(
        "how equal scores are ordered: leftmost position first, or higher untempered probability first",
        "leftmost",
        choices=("leftmost", "probability"),
    )
    start_length: int | None = setting(
        "length of the completion at the start; while it is full and has no end token, it grows by a block, up to gen_length; "
        "null: gen_length from the start",
        default=None,
        min=1,
    )  # older runs lack it

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of the sampler, by setting."""
        return {name: getattr(self, name) for name in ("order", "schedule", "guidance", "remasking", "search")}

    @property
    def draws(self) -> bool:
        """Whether two decodings of the same prompt can differ."""
        return self.temperature > 0 or self.order_temperature > 0 or self.order.draws or self.schedule.draws

    @property
    def passes_per_step(self) -> int:
        """Forward passes of a row in one step."""
        return 2 if self.cfg_scale > 0 else int(self.guidance.passes)

    @property
    def blocks(self) -> int:
        """The number of blocks; the last one may be shorter where the model attends by blocks."""
        return -(-self.gen_length // self.block_length)

    @property
    def steps_per_block(self) -> int:
        if self.steps is not None:
            return self.steps // self.blocks
        return -(-self.block_length // (self.tokens_per_step or 1))


@dataclass
class Likelihood:
    """How the log likelihood of a text is estimated: a mean over random masks of what the model gives the masked tokens."""

    draws: int = setting(
        "masks drawn per text, or per block where attention is by blocks; where there are no more masks than this, all "
        "are taken, and the bound is exact",
        128,
        min=4,
    )
    estimator: str = setting(
        "stratified: mask counts spread evenly; antithetic: pairs of masks that overlap in one token; coupled: a mask and "
        "its complement",
        "stratified",
        choices=("stratified", "antithetic", "coupled"),
    )
    cfg_scale: float = setting("w of classifier-free guidance; 0: none; above 0 doubles the passes", 0.0, min=0.0)
    normalize: str = setting(
        "what the log likelihood of a choice is divided by before the highest is chosen",
        "none",
        choices=("none", "tokens", "bytes"),
    )


@dataclass
class Table:
    """The table that rws table prints for a sweep."""

    title: str = setting("the table's title")
    columns: list[str] = setting("the measures shown, one per column")
    note: str = setting("a note below the table", default="")
    published: dict[str, dict[str, Any]] = setting(
        "published results: label → column → the value as printed in the paper", default_factory=dict
    )


@dataclass
class Runtime:
    """Settings that do not change any token, except that a cache is approximate where attention is full."""

    batch_size: int | None = setting(
        "rows decoded together; null: chosen by the size of the logits; halved when memory runs out", min=1
    )
    threads: int | None = setting("CPU threads; null: torch's default", min=1)
    compile: bool = setting("compile the model (torch.compile): about a minute at the start, then faster steps")
    deterministic: bool = setting("decode each example alone, so that rounding does not depend on the batch; slower")
    cache: str = setting(
        "cache of keys and values between steps: approximate, faster with several blocks; prefix is exact for models that "
        "attend block by block, and what auto chooses for these",
        choices=("auto", "none", "prefix", "dual"),
    )
    cache_refresh: int | None = setting(
        "passes of a row between two over its whole sequence; null: one whole pass per block", min=1
    )
    backend: str = setting(
        "where decoding runs: this process, several on this machine, several that share one model, or a cluster",
        role="worker",
    )
    workers: int | None = setting(
        "copies of the model, or parts if it is shared; null: one per GPU; without GPUs one per core, at most 4, or 2 parts",
        min=1,
    )
    address: str | None = setting("the cluster's address, as Ray's init takes it; null: start one on this machine")
    tracker: str = setting(
        "a library that also logs the run, configured by its own environment variables", role="tracker"
    )
    speculate: int | str = setting(
        "canvases of a row that are computed in one pass, its own and drafts of the next steps: the same tokens in fewer "
        "passes, but more rows; 0: no drafts; auto: as many as save time here",
        default=0,
    )  # older runs lack it


@dataclass
class Config:
    """All settings of a run."""

    seed: int = setting("seed of decoding; every random number derives from (seed, example, step)")
    output: str = setting("folder for runs, which go to <output>/<benchmark>/<model>-<sampler>/vNNN")
    label: str | None = setting("the run's name in tables; null: its sampler, and the settings that distinguish it")
    table: Table | None = setting("the table that rws table prints for a sweep")
    plot: str | None = setting("a plot made at the end of a sweep", choices=("pareto",))
    trust_remote_code: bool = setting(
        "allow presets that need it to run Python from their checkpoint, at the commit in pins"
    )
    pins: dict[str, str | None] = setting("preset → the full commit hash of the Python that you trust")
    model: Any = setting("the masked diffusion model")
    reward: Any = setting("what scores finished and partly decoded completions")
    sampler: Sampler = setting("how a response is decoded")
    benchmark: Any = setting("the questions, and how completions are graded")
    metric: dict[str, Any] = setting("metrics of the completions, e.g. metric=[length,diversity]", role="metric")
    judge: Any = setting("what decides which of two completions is better")
    runtime: Runtime = setting("how and where decoding runs; does not change the tokens")
    likelihood: Likelihood = setting(
        "how the likelihood of a text or of a choice is estimated", default_factory=Likelihood
    )  # older runs lack it
    objective: str | None = setting(
        "the value that a job returns to an optimizing sweeper: a key of metrics.json, such as accuracy", default=None
    )  # older runs lack it
