"""Within a block every pass of a row has the same shapes, so that a pass can be captured (CUDA graphs).

Not so the output head, which reads open positions alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from block_models import block_denoiser
from support import Scored, make_sampler, part
from transformers import DynamicCache

from rws_cli.decoding.batch import prompt_of
from rws_cli.decoding.cache import BlockCache
from rws_cli.decoding.loop import Decoder
from rws_cli.decoding.prefix_cache import PrefixCache
from rws_cli.decoding.statistics import Statistics

SAMPLERS: dict[str, dict[str, Any]] = {
    "threshold": {"schedule": part("schedule", "threshold", threshold=0.6)},
    "rws": {"guidance": part("guidance", "rws", form="exponential")},
}
FULL, DREAM, SDAR, LLADA2, FAST = (
    (None,),
    (None, "completion", False, 1),
    (4, "sequence"),
    (4, "completion"),
    (4, "sequence", True, 1),
)
"""Arguments of block_denoiser, by a family that attends so."""


def shapes_by_block(blocks: tuple[Any, ...], kind: str, **settings: Any) -> dict[int, list[Any]]:
    """For each block of a completion of 12 tokens, the shapes of what each pass reads: its tokens, mask and positions, the
    places that logits are wanted of, and the keys that its first layer sees."""
    denoiser, found = block_denoiser(*blocks), defaultdict(list)

    def forward(*inputs: Any, **options: Any) -> torch.Tensor:
        shapes = [x.shape for x in inputs if isinstance(x, torch.Tensor)]
        for past in (x for x in inputs if isinstance(x, DynamicCache)):
            update = past.update

            def recorded(keys: Any, values: Any, layer: int, update: Any = update) -> Any:
                seen = update(keys, values, layer)
                if layer == 0:
                    shapes.append(seen[0].shape)
                return seen

            past.update = recorded
        logits = denoiser.forward(*inputs, **options)
        found[int(decoder.batch.block_B[0])].append(shapes)
        return logits

    recording = replace(denoiser, forward=forward)
    exact = kind == "prefix" and blocks[0]
    cache = None if kind == "none" else PrefixCache(recording, 1) if exact else BlockCache(recording, kind, None, 1)
    decoder = Decoder(
        recording, [prompt_of([1, 2, 3, 4, 5], 0, "0")], make_sampler(12, block_length=4, **settings), cache=cache
    )
    decoder.scorer = Scored(lambda rows, *_: [1.0] * len(rows), Statistics(0.0, 1.0, 0.0, 1.0), decoder.costs)
    list(decoder.run())
    return found


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("blocks", "kind"),
    [
        *[(blocks, kind) for blocks in (FULL, DREAM) for kind in ("none", "prefix", "dual")],
        *[(blocks, kind) for blocks in (SDAR, LLADA2, FAST) for kind in ("none", "prefix")],
    ],
)
def test_passes_of_a_block_have_the_same_shapes(blocks: tuple[Any, ...], kind: str, name: str) -> None:
    """With a cache from the second pass on, as the first computes more."""
    found = shapes_by_block(blocks, kind, **SAMPLERS[name])
    assert len(found) >= 3
    assert max(map(len, found.values())) >= 3
    for shapes in found.values():
        later = shapes if kind == "none" else shapes[1:]
        assert all(one == later[0] for one in later)
        assert kind == "none" or all(len(one) == 5 for one in later)
