"""Shows the decoding of a prompt on the terminal as it happens."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.live import Live

from rws_cli.analysis.trajectory import trajectory_of
from rws_cli.decoding.record import RowTrace
from rws_cli.report.replay import Picture, Scene, outcome
from rws_cli.runs.generate import Generation


def watch(generation: Generation) -> dict[str, Any]:
    """Decode and show each step; with several particles, the first one until one is chosen. Returns the result."""
    config, components = generation.config, generation.components
    title = f"{config.model.name} · {config.sampler.name}"
    prepared, mask_id = generation.prepared, components.denoiser.mask_id
    length = config.sampler.start_length or config.sampler.gen_length
    canvas = prepared.canvases.get(prepared.examples[0].id, [mask_id] * length)
    fixed = [[n, components.piece(token)] for n, token in enumerate(canvas) if token != mask_id]
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="visible") as live:

        def show_step(committed: int, traces: list[RowTrace]) -> None:
            trace = traces[0]
            row = {"id": title, **asdict(trace), "text": [components.piece(token) for token in trace.token]}
            so_far = max([len(canvas), *(position + 1 for position in trace.position)])  # it may have grown
            sample = {"tokens": [*canvas, *[mask_id] * (so_far - len(canvas))], "fixed": fixed}
            trajectory = trajectory_of(row, sample, finished=False)
            live.update(
                Picture(Scene(trajectory, title, prepared.examples[0].prompt), len(trajectory.steps)),
                refresh=True,
            )

        generated = generation(show_step)
        sample = generated["sample"]
        trajectory = trajectory_of(generated["trace"], sample)
        scene = Scene(trajectory, title, sample["prompt"], outcome(sample))
        live.update(Picture(scene, len(trajectory.steps), whole=True), refresh=True)
    return generated
