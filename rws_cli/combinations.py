"""Settings of a sampler that do not go together, or lack what they need; each gets one sentence."""

from __future__ import annotations

from rws_cli import parts, registry
from rws_cli.config.schema import (
    BestOfN,
    Config,
    EntrgiGuidance,
    FkSteering,
    NoReview,
    NoSearch,
    ProphetSchedule,
    RemdmSchedule,
    ReplayGuidance,
    RewardGuidance,
    Sampler,
)
from rws_cli.errors import UsageError


def check_sampler(config: Config) -> None:
    """Raises UsageError if something does not fit."""
    s = config.sampler
    if config.benchmark.answers > 1 and not _draws(s):
        raise UsageError(
            f"benchmark.answers={config.benchmark.answers} would all be the same: with sampler.temperature=0 nothing "
            "is drawn at random. Set sampler.temperature above 0, or benchmark.answers=1."
        )
    _check_methods(config)
    _check_runtime(config)
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
    if isinstance(s.guidance, RewardGuidance) and not config.reward.scores:
        raise UsageError("sampler.guidance.kind=rws needs a reward: choose reward=tiny or another, not reward=none.")


def _check_runtime(config: Config) -> None:
    """What does not go together with a compiled model, or with keys and values that are kept."""
    s, kind = config.sampler, config.runtime.cache
    for role, name in (("worker", "backend"), ("tracker", "tracker")):
        part = registry.make(role, getattr(config.runtime, name), f"runtime.{name}")
        if sentence := next(part.conflicts(config), None):
            raise UsageError(sentence)
    if config.runtime.compile and not config.model.native:
        raise UsageError(
            f"runtime.compile=true compiles LLaDA's and Dream's backbones, not model.kind={config.model.kind}'s."
        )
    if kind == "none":
        if config.runtime.cache_refresh is not None:
            raise UsageError(
                f"runtime.cache_refresh={config.runtime.cache_refresh} refreshes nothing: set runtime.cache=prefix or dual."
            )
        return
    cannot = {
        f"model.kind={config.model.kind}": not config.model.native,
        "model.attention=flash_attention_2": config.model.attention == "flash_attention_2",
        "runtime.compile=true": config.runtime.compile,
        f"sampler.cfg_scale={s.cfg_scale}": s.cfg_scale > 0,
        f"sampler.schedule.kind={s.schedule.kind}": parts.masks_again(s.schedule.kind),
        f"sampler.review.kind={s.review.kind}": not isinstance(s.review, NoReview),
    }
    if kind == "dual":
        cannot |= {
            f"sampler.search.kind={s.search.kind}": isinstance(s.search, FkSteering),
            f"sampler.guidance.kind={s.guidance.kind}": isinstance(s.guidance, EntrgiGuidance),
        }
    if found := next((part for part, here in cannot.items() if here), None):
        prefix = " or runtime.cache=prefix" if found.startswith(("sampler.search", "sampler.guidance")) else ""
        raise UsageError(f"runtime.cache={kind} does not work with {found}: set runtime.cache=none{prefix}.")


def _draws(sampler: Sampler) -> bool:
    """Whether two decodings of one prompt can differ."""
    by_chance = sampler.order == "random" or sampler.order_temperature > 0 or sampler.schedule.kind == "remdm"
    return sampler.temperature > 0 or by_chance or getattr(sampler.schedule, "origin", False)


def seed_matters(config: Config) -> bool:
    """Whether another seed can give other tokens."""
    guidance, reward = config.sampler.guidance, config.reward
    by_guidance = isinstance(guidance, EntrgiGuidance) or "shuffled" in (getattr(guidance, "how", ""), reward.name)
    return _draws(config.sampler) or by_guidance or getattr(guidance, "fill", "") == "sample"


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
        if needs and not config.reward.scores:
            raise UsageError(f"{part} needs a reward: choose reward=tiny or another, not reward=none.")
    if isinstance(s.guidance, EntrgiGuidance) and getattr(config.reward, "needs_remote_code", False):
        raise UsageError(
            f"sampler.guidance.kind=entrgi reads embeddings, which reward={config.reward.name}'s own Python does not take."
        )
    if isinstance(s.guidance, EntrgiGuidance) and not config.reward.gradients:
        raise UsageError(
            f"sampler.guidance.kind=entrgi follows the reward's gradient, and reward={config.reward.name} has none: "
            "choose reward=tiny, reward=classifier or a preset of a reward model."
        )
    if counted and not parts.reads_steps(kind):
        raise UsageError(
            f"sampler.{counted} is not read by sampler.schedule.kind={kind}, which takes as many steps as it needs: "
            f"set sampler.{counted}=null."
        )
    if (s.order == "pc") != (s.pc is not None):
        raise UsageError("sampler.order=pc and the settings sampler.pc go together: choose sampler=pc.")
    if isinstance(schedule, RemdmSchedule):
        on, off, held = schedule.t_on, schedule.t_off, schedule.alpha_on
        if (on is None) != (off is None) or (on is not None and off is not None and off >= on):
            raise UsageError(
                f"sampler.schedule.t_on={on} and t_off={off} must both be null, or t_off the smaller: time runs from 1 to 0."
            )
        if (on is None) != (held is None) or on == 1:
            raise UsageError(
                f"sampler.schedule.t_on={on} and alpha_on={held} must both be null, or alpha_on set and t_on below 1."
            )
    if isinstance(schedule, ProphetSchedule) and schedule.answer_start >= s.gen_length:
        raise UsageError(
            f"sampler.schedule.answer_start={schedule.answer_start} is behind the answer of "
            f"sampler.gen_length={s.gen_length} tokens: set a smaller one."
        )
    if kind == "refine" and schedule.remask > s.block_length * schedule.fill:
        raise UsageError(
            f"sampler.schedule.remask={schedule.remask} is more than the share {schedule.fill} of a block of "
            f"{s.block_length} that stands by then."
        )
    if kind == "wino" and (why := config.model.without_shadows):
        raise UsageError(f"sampler.schedule.kind=wino does not fit model.kind={config.model.kind}, whose {why}.")
    if kind == "wino" and (s.cfg_scale > 0 or config.model.attention == "flash_attention_2"):
        raise UsageError(
            "sampler.schedule.kind=wino asks the model about a block twice in one pass, which goes neither with "
            "sampler.cfg_scale nor with model.attention=flash_attention_2."
        )
    remasks = parts.masks_again(kind) or not isinstance(s.review, NoReview)
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
