"""The scales that a finished RWS run recorded, without its reward: a control

RWS multiplies the logits by r_t(x), which depends on the text. This control applies recorded scales instead: those of the
same example (which must give the same tokens), their mean, their mean at each step, or those of another example. If they
do as well as the reward did, temperature explains the effect.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rws_cli.config.check import updated_config
from rws_cli.config.identity import differing_keys, resolved
from rws_cli.decoding.rank import PositionLogits
from rws_cli.decoding.step import Step
from rws_cli.errors import UsageError
from rws_cli.guidance.base import Guidance, Guided, scaled
from rws_cli.part import part, setting
from rws_cli.runs.folder import find_run
from rws_cli.runs.records import read_trace
from rws_cli.runs.upgrade import read_manifest

Scales = dict[int, float]
"""Step → r, for the steps that committed tokens."""


@part
class RecordedScale(Guidance):
    run: str = setting("the folder of a finished run of sampler=rws")
    how: str = setting(
        "scales of the same example (own), the mean (constant), the mean at each step (schedule), or those of another example "
        "(shuffled)",
        "constant",
        choices=("own", "constant", "schedule", "shuffled"),
    )

    @property
    def draws(self) -> bool:
        return self.how == "shuffled"

    def conflicts(self, config: Any) -> Iterator[str]:
        s = config.sampler
        if s.schedule.remasks or s.remasking.remasks:
            yield f"sampler.guidance.kind={self.kind} needs a method that never masks a token again."
        if s.search.kind != "none":
            yield f"sampler.guidance.kind={self.kind} follows one decoding and does not go together with a search."

    def load(self, prepared: Any, reward: Any) -> None:
        self.use(read_scales(self, prepared))

    def use(self, scales: dict[str, Scales]) -> None:
        """Set the scales of each example."""
        self.scales = scales
        digest = hashlib.sha256(json.dumps(scales, sort_keys=True).encode()).hexdigest()
        self.source = {"recorded_scales": digest}  # type: ignore[misc]
        self.rows: dict[int, list[float]] = {}

    def begin(self, rows: dict[int, str]) -> None:
        for row, example in rows.items():
            scales = self.scales[example]
            self.rows[row] = [scale_at(scales, step) for step in range(max(scales) + 1)]
        self.table: Tensor | None = None

    def guide(self, predicted: PositionLogits, step: Step) -> Guided:
        if self.table is None:
            longest = max(map(len, self.rows.values()))
            table = [self.rows.get(row, [1.0]) for row in range(len(step.index_B))]
            padded = [each + each[-1:] * (longest - len(each)) for each in table]
            self.table = torch.tensor(padded, dtype=torch.float64).to(step.index_B.device)
        number_B1 = step.number_B.clamp(max=self.table.shape[1] - 1)[:, None]
        return scaled(predicted, self.table.gather(1, number_B1)[:, 0])


def scale_at(scales: Scales, step: int) -> float:
    """r at a step; where none was recorded, that of the last step before, else of the first."""
    before = [s for s in scales if s <= step]
    return scales[max(before) if before else min(scales)]


def assign_scales(recorded: dict[str, Scales], how: str, seed: int) -> dict[str, Scales]:
    """The scales that each example gets. shuffled: those of another example, by a random cyclic permutation."""
    if how == "own":
        return recorded
    if how == "shuffled":
        circle = sorted(recorded)
        random.Random(f"replay {seed}").shuffle(circle)
        return {i: recorded[giver] for giver, i in zip(circle, [*circle[1:], circle[0]], strict=True)}
    by_step: dict[int, list[float]] = {}
    for scales in recorded.values():
        for step, r in scales.items():
            by_step.setdefault(0 if how == "constant" else step, []).append(r)
    means = {step: sum(found) / len(found) for step, found in by_step.items()}
    return dict.fromkeys(recorded, means)


def read_scales(settings: RecordedScale, prepared: Any) -> dict[str, Scales]:
    """The scales of a finished run, for the examples of this one.

    Raises UsageError if the run is not finished, recorded no scales, or differs in more than its guidance.
    """
    run, named = find_run(settings.run), f"sampler.guidance.run={settings.run}"
    manifest = read_manifest(run)
    if manifest["status"] != "finished":
        raise UsageError(f"{named} is {manifest['status']}: finish it with rws run --resume {run}.")
    here, there = resolved(prepared.config), updated_config(manifest["config"])
    for node in (here, there):
        node["sampler"] = {key: value for key, value in node["sampler"].items() if key not in ("name", "guidance")}
    groups = ("model", "benchmark", "sampler", "seed")
    if differing := differing_keys({g: there[g] for g in groups}, {g: here[g] for g in groups}):
        listed = ", ".join(f"{key}={old}" for key, (old, _) in list(differing.items())[:8])
        raise UsageError(f"{named} was made with other settings; to apply its scales, set {listed}.")
    recorded = {
        row["id"]: {step: r for step, r in zip(row["step"], row["scale"], strict=True) if r is not None}
        for row in read_trace(run)
    }
    if not all(recorded.get(example.id) for example in prepared.examples):
        raise UsageError(f"{named} recorded no scales for some examples: it must be a run of sampler=rws.")
    return assign_scales(recorded, settings.how, prepared.config.seed)
