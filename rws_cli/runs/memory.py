"""The memory that decoding takes at its peak, planned from configurations and the headers of weight files.

Only the model's device is planned. Not counted: the passes of reward models (their weights are counted by rws doctor), what
EntRGi's gradients and KLASS's stored distributions take, the pools of CUDA graphs, and what libraries hold for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rws_cli.config.schema import Config, Sampler
from rws_cli.decoding.prediction import CHUNK_BYTES
from rws_cli.decoding.rank import greedy
from rws_cli.decoding.speculate import canvases
from rws_cli.guidance.base import Guidance
from rws_cli.models.base import PreparedModel
from rws_cli.models.checkpoint import stored_weights
from rws_cli.models.loading import pick_dtype
from rws_cli.runs.prepared import PreparedRun
from rws_cli.schedules.base import Schedule
from rws_cli.search.base import Search

QUANTIZED = {"8bit": 1, "4bit": 0.5}
"""Bytes per quantized weight."""
ALL, DRAWN, NUCLEUS = 4, 6, 9
"""Float64 copies of a chunk of logits, as torch's profiler counts them: where a part reads the log-probabilities of all
tokens, where tokens are drawn, and with top_p < 1. Of the likeliest token alone: two float32 copies, as large as one."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that decoding takes on a device. rows: decoded together; length: of the longest prompt and its completion, in
    tokens. cache: keys and values of all layers. activations: of the widest layer. logits: with all that is computed from
    them at a time."""

    rows: int
    length: int
    weights: float
    cache: float
    activations: float
    logits: float

    @property
    def peak(self) -> float:
        """Activations are freed before logits are ranked: only the larger of the two counts."""
        return self.weights + self.cache + max(self.activations, self.logits)


def memory_plan(config: Config, prepared: PreparedRun, device: torch.device, rows: int, ranks: int = 1) -> MemoryPlan:
    """The plan of one of `ranks` processes that share the model, for passes of at most `rows` rows."""
    s, model = config.sampler, prepared.model
    longest = max(len(ids) + prepared.turn[name] * s.gen_length for name, ids in prepared.prompts.items())
    length, particles = longest + s.gen_length, s.search.particles
    side_by_side = particles * max(1, min(len(prepared.prompts), rows // particles))
    several = canvases(config.runtime.speculate) + s.schedule.lookahead
    passed = min(rows, side_by_side) * several
    # Rows that enter later, or commit other numbers of tokens, are in other blocks, whose windows are passed apart.
    in_step = s.schedule.counted and particles * len(prepared.prompts) <= side_by_side
    apart = config.runtime.cache != "none" and model.topology.block_size is None and not in_step
    dtype = pick_dtype(config.model.dtype, device)
    width = dtype.itemsize if isinstance(dtype, torch.dtype) else 2
    activations = passed * length * layer_bytes(config, model, device, width, length, ranks)
    if s.cfg_scale > 0:  # the second pass runs beside the logits of the first
        activations += 4.0 * passed * positions_read(s, model) * model.vocabulary
    return MemoryPlan(
        rows=side_by_side,
        length=length,
        weights=model_bytes(config, model, device, ranks),
        cache=side_by_side * (length + 1) * cache_bytes(config, model, width) / ranks,
        activations=activations,
        logits=logits_bytes(config, model, device, width, passed, side_by_side * several, length, apart),
    )


def weight_bytes(node: Any, stored: tuple[int, int], device: torch.device) -> float:
    """Bytes of loaded weights. node: settings of a checkpoint; stored: the number of its weights, and their size in files."""
    dtype = pick_dtype(node.dtype, device)
    if node.quantization != "none":
        return stored[0] * QUANTIZED[node.quantization]
    return stored[0] * dtype.itemsize if isinstance(dtype, torch.dtype) else stored[1]


def model_bytes(config: Config, model: PreparedModel, device: torch.device, ranks: int) -> float:
    """Bytes of the model's weights; 0 if they are not on this machine yet."""
    stored = stored_weights(model.path, config.model.revision, "model.path")
    if stored is None:
        return 0.0
    native = model.arguments["config"].get_text_config()
    packed = device.type == "cpu" and model.topology.block_size is not None and ranks == 1
    twice = packed and native.tie_word_embeddings and pick_dtype(config.model.dtype, device) == torch.float32
    copy = 4.0 * model.vocabulary * native.hidden_size if twice else 0.0  # models/packed.py
    return weight_bytes(config.model, stored, device) / ranks + copy


def cache_bytes(config: Config, model: PreparedModel, width: int) -> float:
    """Bytes of the keys and values of one token in all layers; 0 without a cache."""
    if config.runtime.cache == "none":
        return 0.0
    _, keys = head_sizes(model)
    return 2.0 * width * keys * model.arguments["config"].get_text_config().num_hidden_layers


def head_sizes(model: PreparedModel) -> tuple[int, int]:
    """The elements of a token's queries and of its keys in one layer."""
    native = model.arguments["config"].get_text_config()
    heads = native.num_attention_heads
    head_dim = getattr(native, "head_dim", None) or native.hidden_size // heads
    return heads * head_dim, (getattr(native, "num_key_value_heads", None) or heads) * head_dim


def layer_bytes(
    config: Config, model: PreparedModel, device: torch.device, width: int, length: int, ranks: int
) -> float:
    """The most bytes per token in one layer, with the embeddings and inputs of the layer that are still referenced.

    In attention: queries and keys while they are rotated. In an MLP: the activated gate, the second projection and their
    product; in half precision on a CPU, also float32 sums. In experts: copies of each token for all experts that it chooses.
    A mask takes one byte for each pair of tokens and a copy in the model's dtype.
    """
    native = model.arguments["config"].get_text_config()
    hidden, (queries, keys) = native.hidden_size, head_sizes(model)
    inner = getattr(native, "intermediate_size", None) or 4 * hidden
    expert, chosen = (getattr(native, name, None) or 0 for name in ("moe_intermediate_size", "num_experts_per_tok"))
    attention = max(4 * queries + 2 * keys, 2 * queries + 5 * keys)
    mlp = (4 if device.type == "cpu" and width < 4 else 3) * inner
    experts = chosen * max(4 * (expert or inner) + hidden, 4 * hidden)
    scores = 8 * native.num_attention_heads * length if config.model.attention == "eager" else 0
    in_attention = width * attention / ranks + scores / ranks + (1 + width) * length
    return width * 4 * hidden + max(in_attention, width * mlp / ranks + length, width * experts / ranks)


def positions_read(sampler: Sampler, model: PreparedModel) -> int:
    """The most positions of a row whose logits one pass computes: those being decoded, or, where a part reads others, all
    that the pass can reach."""
    schedule, size = sampler.schedule, model.topology.block_size
    if (
        type(sampler.guidance).reads_masked is not Guidance.reads_masked
        or type(sampler.search).due is not Search.due
        or type(schedule).feature_positions is not Schedule.feature_positions
    ):
        reached = sampler.gen_length if size is None or schedule.reads_from is not None else size
    else:
        reached = sampler.block_length * sampler.remasking.window
    return min(reached, sampler.gen_length)


def logits_bytes(
    config: Config,
    model: PreparedModel,
    device: torch.device,
    width: int,
    passed: int,
    rows: int,
    length: int,
    apart: bool,
) -> float:
    """The most bytes of logits and what is computed from them. passed: the rows of one pass, of all `rows`; apart: whether
    rows of a step may need passes of their own."""
    s, vocabulary = config.sampler, model.vocabulary
    positions = positions_read(s, model)
    one_pass, logits = passed * positions * vocabulary, 4.0 * rows * positions * vocabulary
    moments = [one_pass * (4.0 if width == 4 else width + 4.0)]  # the model's logits, and their float32 copy
    if not config.model.native:  # the head computes all positions
        moments.append(width * (passed * length * vocabulary + one_pass))
    if s.cfg_scale > 0:  # with and without the prompt, their difference and its product
        moments.append(16.0 * one_pass)
    if s.schedule.shadow:  # logits of the block's shadows, and three float64 copies
        shadows = passed * s.block_length * vocabulary
        moments += [8.0 * (one_pass + shadows), 4.0 * one_pass + 28.0 * shadows]
    if rows > passed or apart:
        moments.append(2 * logits)  # of several passes, joined
    ranked = logits
    if positions > s.block_length:  # those of the block apart
        ranked += 4.0 * rows * s.block_length * vocabulary
    if type(s.search).weigh is not Search.weigh:  # those of resampled rows
        ranked += logits
    chunk = min(2 * logits, CHUNK_BYTES["cuda" if device.type == "cuda" else "cpu"])
    return max(*moments, ranked + ranking_copies(s) * chunk)


def ranking_copies(sampler: Sampler) -> int:
    """Float64 copies of the logits of a chunk of positions while they are ranked, or completed for a reward."""
    if sampler.top_p < 1.0:
        return NUCLEUS
    if not greedy(sampler) or sampler.guidance.draws:
        return DRAWN
    needs_all = sampler.order.needs_all_log_probs or sampler.schedule.needs_all_log_probs
    return ALL if needs_all or sampler.confidence == "model_dtype" else 1
