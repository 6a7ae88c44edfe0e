"""Check that settings work together: what parts declare, and rules that span several parts."""

from collections.abc import Iterator

from rws_cli import registry
from rws_cli.config.schema import Config, Sampler
from rws_cli.errors import UsageError
from rws_cli.part import Part

MOST_CANVASES = 64
"""The largest runtime.speculate."""


def check_compatibility(config: Config) -> None:
    """Raises UsageError for the first conflict."""
    several = (
        _lengths,
        _conflicts,
        _needs,
        _remasking,
        _blocks,
        _cache,
        _speculation,
        _lookahead,
        _adapter,
        _completions,
        _draws,
    )
    for sentences in several:
        if sentence := next(sentences(config), None):
            raise UsageError(sentence)


def parts_of(config: Config) -> dict[str, Part]:
    """The parts of a configuration, by key."""
    nodes = {f"sampler.{name}": part for name, part in config.sampler.parts.items()}
    nodes |= {name: getattr(config, name) for name in ("model", "reward", "benchmark")}
    nodes |= {
        f"runtime.{name}": registry.make(role, getattr(config.runtime, name), f"runtime.{name}")
        for role, name in (("worker", "backend"), ("tracker", "tracker"))
    }
    nodes |= {f"metric.{name}": metric for name, metric in config.metric.items()}
    return nodes


def seed_matters(config: Config) -> bool:
    """Whether another seed can give other tokens."""
    return config.sampler.draws or any(part.draws for part in parts_of(config).values())


def _needs(config: Config) -> Iterator[str]:
    for key, part in parts_of(config).items():
        named = f"{key}.kind={part.kind}"
        if "reward" in part.needs and not config.reward.scores:
            yield f"{named} needs a reward: choose reward=tiny or another, not reward=none."
        if "gradients" in part.needs and not config.reward.gradients:
            yield (
                f"{named} needs the reward's gradient, and reward={config.reward.name} has none: choose reward=tiny, "
                "reward=classifier or a preset of a reward model."
            )


def _conflicts(config: Config) -> Iterator[str]:
    for part in parts_of(config).values():
        yield from part.conflicts(config)


def _lengths(config: Config) -> Iterator[str]:
    s = config.sampler
    if s.gen_length % s.block_length and config.model.topology.block_size is None:
        divisors = [n for n in range(1, s.gen_length + 1) if s.gen_length % n == 0]
        yield (
            f"sampler.block_length={s.block_length} does not divide sampler.gen_length={s.gen_length}: "
            f"choose from {', '.join(map(str, divisors))}."
        )
    if s.start_length is not None:
        yield from _start_length(config, s.start_length)
    counted = "steps" if s.steps is not None else "tokens_per_step" if s.tokens_per_step is not None else None
    if counted and not s.schedule.counted:
        yield (
            f"sampler.{counted} has no effect with sampler.schedule.kind={s.schedule.kind}, which decides itself how many "
            f"steps it takes: set sampler.{counted}=null."
        )
    if s.steps is not None:
        yield from _steps(s)
    elif s.tokens_per_step is not None and s.tokens_per_step > s.block_length:
        yield (
            f"sampler.tokens_per_step={s.tokens_per_step} is out of range: "
            f"it must be at most sampler.block_length={s.block_length}."
        )


def _start_length(config: Config, start: int) -> Iterator[str]:
    if start > config.sampler.gen_length:
        yield (
            f"sampler.start_length={start} is out of range: it must be at most sampler.gen_length="
            f"{config.sampler.gen_length}."
        )
    if config.model.topology.block_size is not None:
        yield (
            f"sampler.start_length={start} does not fit model.kind={config.model.kind}, which never sees the blocks that are "
            "not decoded yet: set sampler.start_length=null and sampler.eos=stop_block."
        )


def _steps(s: Sampler) -> Iterator[str]:
    assert s.steps is not None
    if s.tokens_per_step is not None:
        yield (
            f"sampler.steps={s.steps} and sampler.tokens_per_step={s.tokens_per_step} are both set: set one of them to null."
        )
    if s.steps % s.blocks:
        yield (
            f"sampler.steps={s.steps} is not a multiple of the {s.blocks} blocks "
            f"(gen_length {s.gen_length} / block_length {s.block_length}): choose {s.blocks}, {2 * s.blocks}, …"
        )
    if s.steps > s.gen_length:
        yield f"sampler.steps={s.steps} is out of range: it must be at most sampler.gen_length={s.gen_length}."


def _remasking(config: Config) -> Iterator[str]:
    s = config.sampler
    if s.eos == "stop" and (s.schedule.remasks or s.remasking.remasks):
        yield "sampler.eos=stop does not work with a schedule or remasking that remasks tokens: set sampler.eos=none."


def _blocks(config: Config) -> Iterator[str]:
    """Conflicts of a model that attends block by block."""
    size, s, runtime = config.model.topology.block_size, config.sampler, config.runtime
    if size is None:
        return
    if size % s.block_length:
        yield (
            f"sampler.block_length={s.block_length} does not divide model.block_size={size}: a token of this model attends to "
            f"its own block and earlier ones, so set sampler.block_length={size}."
        )
    if s.remasking.window > 1:
        yield (
            f"sampler.remasking.window={s.remasking.window} would decode earlier blocks again, but later ones attend to them: "
            "set sampler.remasking.window=1 or choose another model."
        )
    if runtime.cache == "dual" or runtime.cache_refresh is not None:
        named = "cache=dual" if runtime.cache == "dual" else f"cache_refresh={runtime.cache_refresh}"
        yield f"runtime.{named} has no use with model.kind={config.model.kind}, whose prefix cache is exact: set runtime.cache=prefix."
    if runtime.compile:
        yield f"runtime.compile=true does not work with model.kind={config.model.kind}, which attends block by block."


def _completions(config: Config) -> Iterator[str]:
    if config.benchmark.completions > 1 and not config.sampler.draws:
        yield (
            f"benchmark.completions={config.benchmark.completions} would all be the same, because nothing is drawn "
            "at random with sampler.temperature=0. Set sampler.temperature above 0, or benchmark.completions=1."
        )


def _draws(config: Config) -> Iterator[str]:
    settings = config.likelihood
    if settings.estimator != "stratified" and settings.draws % 2:
        yield f"likelihood.draws={settings.draws} must be even, because likelihood.estimator={settings.estimator} draws pairs."


def _cache(config: Config) -> Iterator[str]:
    """Conflicts of a compiled model or a key-value cache."""
    m, runtime, kind = config.model, config.runtime, config.runtime.cache
    if runtime.compile and not m.native:
        able = [name for name, source in registry.available("model").items() if source.facts.get("native")]
        yield f"runtime.compile=true works with model.kind={' or '.join(able)}, not model.kind={m.kind}: set runtime.compile=false."
    if kind == "none":
        if runtime.cache_refresh is not None:
            yield (
                f"runtime.cache_refresh={runtime.cache_refresh} has no effect without a cache: set runtime.cache=prefix or dual."
            )
        return
    cannot = {
        f"model.kind={m.kind}": not m.native,
        "model.attention=flash_attention_2": m.attention == "flash_attention_2",
        "runtime.compile=true": runtime.compile,
        f"sampler.cfg_scale={config.sampler.cfg_scale}": config.sampler.cfg_scale > 0,
    }
    for named in (name for name, is_set in cannot.items() if is_set):
        yield f"runtime.cache={kind} does not work with {named}: set runtime.cache=none."
    for key, part in parts_of(config).items() if m.topology.block_size is None else ():
        if kind not in part.caches:
            other = " or runtime.cache=prefix" if "prefix" in part.caches else ""
            yield f"runtime.cache={kind} does not work with {key}.kind={part.kind}: set runtime.cache=none{other}."


def _speculation(config: Config) -> Iterator[str]:
    """Conflicts of drafted steps."""
    depth, runtime = config.runtime.speculate, config.runtime
    if depth == 0:
        return
    named = f"runtime.speculate={depth}"
    if depth != "auto" and (not isinstance(depth, int) or not 2 <= depth <= MOST_CANVASES):
        yield f"{named} is not known: it must be 0, auto, or 2 to {MOST_CANVASES} canvases per pass."
        return
    if runtime.deterministic:
        yield f"{named} does not work with runtime.deterministic=true, because rounding would depend on drafts: set one of them only."
    if runtime.cache != "none" and config.model.topology.block_size is None:
        yield f"{named} does not work with runtime.cache={runtime.cache}, which is not exact here: set runtime.cache=none."
    for key, part in parts_of(config).items():
        if part.not_drafted:
            yield f"{named} does not work with {key}.kind={part.kind}: {part.not_drafted}."


def _lookahead(config: Config) -> Iterator[str]:
    """Conflicts of schedules that compare canvases computed ahead."""
    s = config.sampler
    if s.schedule.lookahead and s.guidance.kind != "none":
        yield (
            f"sampler.schedule.kind={s.schedule.kind} compares canvases that no guidance has changed, so it does not work with "
            f"sampler.guidance.kind={s.guidance.kind}: choose another sampler, or leave guidance out."
        )


def _adapter(config: Config) -> Iterator[str]:
    m = config.model
    cannot = {
        f"model.kind={m.kind}": not m.native,
        f"model.quantization={m.quantization}": m.quantization != "none",
        "runtime.backend=tensor_parallel": config.runtime.backend == "tensor_parallel",
    }
    for named in (name for name, is_set in cannot.items() if is_set and m.adapter is not None):
        yield f"model.adapter does not work with {named}: merge the adapter into its base model (merge_and_unload) first."
