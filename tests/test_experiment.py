"""What a run decides by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rws_cli.config import compose
from rws_cli.experiment import automatic_batch


@pytest.mark.parametrize(
    ("vocabulary", "gen_length", "rows"),
    [
        (367, 36, 50),  # the bundled model: as many as are of use
        (126_464, 256, 16),  # 16 · 256 · 126,464 · 4 bytes = 1.93 GiB, a seventeenth row would pass 2 GiB
        (126_464, 1024, 4),
        (1_000_000, 4096, 1),  # never none
    ],
)
def test_rows_at_a_time_follow_from_memory(vocabulary: int, gen_length: int, rows: int) -> None:
    prepared = SimpleNamespace(vocabulary=vocabulary)
    config = compose(f"sampler.gen_length={gen_length}")
    assert automatic_batch(config, SimpleNamespace(prepared=prepared)) == rows  # type: ignore[arg-type]
