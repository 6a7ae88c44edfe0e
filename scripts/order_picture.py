"""Draw the order in which runs filled a sudoku, as the README shows it.

    python scripts/order_picture.py RUN [RUN...] --out scripts/order.svg

One panel per run: the 36 cells of the same example, dark where the sampler committed early and pale where late. Each cell
shows the digit and its step, from 0. Clues of the puzzle are in bold.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from rws_cli.runs.folder import find_runs, read_json
from rws_cli.runs.records import read_samples, read_trace

CELL, GAP, TOP, FOOT = 34, 30, 34, 46


def color(rank: float) -> tuple[str, str]:
    """Fill and ink for a rank in [0, 1], from dark blue (first) to nearly white (last)."""
    first, last = (23, 63, 115), (238, 244, 251)
    mixed = [round(a + (b - a) * rank) for a, b in zip(first, last, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})", "#fff" if rank < 0.55 else "#173f73"


def panel(run: Path, example: int, left: int) -> list[str]:
    manifest, sample = read_json(run / "manifest.json"), read_samples(run)[example]
    trace: dict[str, Any] = next(row for row in read_trace(run) if row["id"] == sample["id"])
    clues = [value != "_" for value in re.findall(r"[a-f]\d=([1-6_])", sample["prompt"])]
    steps = dict(zip(trace["position"], trace["step"], strict=True))
    last = max(steps.values())
    parts = [f'<text x="{left}" y="22" class="title">{manifest["config"]["sampler"]["name"]}</text>']
    for cell, step in steps.items():
        x, y = left + cell % 6 * CELL, TOP + cell // 6 * CELL
        fill, ink = color(step / last)
        weight = "bold" if clues[cell] else "normal"
        parts += [
            f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}" stroke="#fff"/>',
            f'<text x="{x + 9}" y="{y + 23}" fill="{ink}" class="digit" font-weight="{weight}">{sample["completion"][cell]}</text>',
            f'<text x="{x + CELL - 3}" y="{y + CELL - 4}" fill="{ink}" class="step">{step}</text>',
        ]
    for row in range(0, 7, 2):
        y = TOP + row * CELL
        parts.append(f'<path d="M{left} {y}h{6 * CELL}" class="box"/>')
    for column in range(0, 7, 3):
        x = left + column * CELL
        parts.append(f'<path d="M{x} {TOP}v{6 * CELL}" class="box"/>')
    verdict = "solved" if sample["grade"]["correct"] else f"{sample['grade']['partial']:.0%} of cells correct"
    note = f"GOD {sample['order']['god_tokens']:.1f}, {verdict}"
    parts.append(f'<text x="{left}" y="{TOP + 6 * CELL + 20}" class="note">{note}</text>')
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--example", type=int, default=0, help="which example, counted from 0")
    parser.add_argument("--out", type=Path, default=Path("scripts/order.svg"))
    args = parser.parse_args()
    runs = [run for path in args.runs for run in find_runs(path)]
    width, height = GAP + len(runs) * (6 * CELL + GAP), TOP + 6 * CELL + FOOT
    style = (
        "text{font-family:system-ui,sans-serif}.title{font-size:16px;font-weight:600;fill:#173f73}"
        ".digit{font-size:17px}.step{font-size:8px;text-anchor:end}.note{font-size:13px;fill:#444}"
        ".box{stroke:#173f73;stroke-width:2;fill:none}"
    )
    parts = [part for n, run in enumerate(runs) for part in panel(run, args.example, GAP + n * (6 * CELL + GAP))]
    args.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )
    print(args.out)


if __name__ == "__main__":
    main()
