"""Estimate what a run would do and cost, without loading weights."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from rws_cli.config.schema import Config
from rws_cli.decoding.speculate import canvases
from rws_cli.likelihood.score import bound
from rws_cli.models.checkpoint import active_weights, stored_weights
from rws_cli.models.topology import Topology
from rws_cli.runs.batch_decoder import rows_at_once
from rws_cli.runs.prepared import PreparedRun, check_loadable, prepare


def plan(config: Config) -> dict[str, int | float | str | None]:
    """Upper bounds of a run's cost: end tokens can stop a row early, and unchanged text is not scored again.

    Tokens are those that the model computes, as in a run's recorded cost; FLOPs are two per active weight and token, without
    attention. Raises UsageError as a run would.
    """
    prepared = prepare(config)
    check_loadable(config)
    sampler, search = config.sampler, config.sampler.search
    decodings = search.particles * search.sweeps
    passes_per_step = 2 if sampler.cfg_scale > 0 else 1
    several = max(canvases(config.runtime.speculate), sampler.schedule.lookahead)  # canvases of a row in a pass
    passes = tokens = calls = most_steps = 0
    for one in decodings_of(config, prepared):
        passes += one.passes * passes_per_step * decodings
        tokens += one.tokens * passes_per_step * decodings * several
        calls += one.blocks * sampler.remasking.rounds * sampler.remasking.window * decodings
        calls += (sampler.guidance.calls(one.steps) + search.calls(one.steps)) * decodings
        most_steps = max(most_steps, one.steps)
    for pairs in prepared.pairs.values():
        for pair in pairs:
            few, many = bound(prepared.model.topology, pair, config.likelihood)
            passes, tokens = passes + few, tokens + many
    path, revision = prepared.model.path, config.model.revision
    stored = stored_weights(path, revision, "model.path")
    weights = stored[0] if stored else None
    active = active_weights(path, revision, "model.path", prepared.model.arguments.get("config"))
    return {
        "examples": len(prepared.prompts),
        "rows at a time": rows_at_once(config, prepared),
        "steps per example": most_steps,
        "MDM passes, at most": passes,
        "tokens through the MDM, at most": tokens,
        "reward calls, at most": calls,
        "MDM weights": weights,
        **({} if active == weights else {"of these active for a token": active}),
        "MDM FLOPs, about": None if active is None else 2.0 * active * tokens,
    } | ({"warning": "\n".join(prepared.warnings)} if prepared.warnings else {})


@dataclass(frozen=True)
class Decoding:
    """The most that one decoding of a prompt takes. blocks: of the sampler; passes: one after the other; tokens: computed by
    the model, if a pass computes one canvas."""

    blocks: int
    steps: int
    passes: int
    tokens: int


def decodings_of(config: Config, prepared: PreparedRun) -> Iterator[Decoding]:
    """One decoding of each prompt. Completions of earlier turns count as part of a prompt, at full length."""
    sampler, topology = config.sampler, prepared.model.topology
    schedule, size = sampler.schedule, topology.block_size or 1
    schedule.prepare(sampler)

    @cache
    def decoding(prompt: int) -> Decoding:
        tables = passes(topology, prompt, sampler.gen_length, sampler.block_length)
        blocks = steps = extra = tokens = stored = 0
        for block in tables:
            several = schedule.remasks or schedule.edits  # a step for a position may not be all
            count = schedule.steps if several else min(schedule.steps, schedule.steps_for(block.width))
            more = schedule.extra_passes(count) * (1 + sampler.remasking.rounds)
            count *= 1 + sampler.remasking.rounds
            blocks, steps, extra = blocks + 1, steps + count, extra + more
            count += more
            if topology.block_size is None or config.runtime.cache == "none":
                tokens += count * block.end
            else:
                begin = min(block.begin, block.reads - config.model.shift)
                if schedule.reads_from is not None:
                    begin = min(begin, prompt + schedule.reads_from - config.model.shift)
                tokens += block.end - min(begin, stored) + (count - 1) * (block.end - begin)
                stored = block.begin
        steps += schedule.first_steps
        tokens += schedule.first_steps * (prompt + sampler.gen_length)
        if schedule.shadow:
            tokens += steps * sampler.block_length
        return Decoding(blocks, steps, steps + extra, tokens)

    for name, prompt in prepared.prompts.items():
        if name in prepared.pairs:
            continue
        turn, length = prepared.turn[name], len(prompt)
        longest = length + turn * sampler.gen_length
        # Where earlier completions may be shorter, so may be the part of a block that the prompt takes.
        shortest = max(length, longest - size + 1)
        yield max((decoding(n) for n in range(shortest, longest + 1)), key=lambda one: one.tokens)


@dataclass(frozen=True)
class Passes:
    """The passes of one block of the sampler, in columns of prompt and completion.

    width: positions of the block. reads: the first of them. begin: the first column of the open block of attention. end:
    the column after the last one that a pass computes.
    """

    width: int
    reads: int
    begin: int
    end: int


def passes(topology: Topology, prompt: int, gen_length: int, block_length: int) -> list[Passes]:
    """The passes of each block of the sampler, for a prompt of so many tokens."""
    number = topology.blocks(prompt, gen_length)
    table = []
    for start, end in pairwise([0, *topology.block_ends(prompt, gen_length, block_length)]):
        reads = prompt + start
        begin, last = bisect_left(number, number[reads]), bisect_right(number, number[reads])
        alone = topology.first_token and reads == begin > 0
        table.append(Passes(end - start, reads, begin, begin if alone else last))
    return table
