"""Colors of pages, figures and replays, which are distinct without red and green, in print and for color-blind
readers."""

from itertools import pairwise

RUNS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Colors of runs (Okabe and Ito's palette)."""
STEPS = ("#173f73", "#3f7fbf", "#9cc3e6", "#eef4fb")
"""From the first step, dark, to the last, pale."""
CONFIDENCES = ("#8c2d04", "#ec7014", "#fec44f", "#fff7bc")
"""From low confidence, dark, to high, pale."""


def mixed(stops: tuple[str, ...], share: float) -> tuple[int, int, int]:
    """The color (red, green, blue) at a share in [0, 1] of the way through some stops."""
    at = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    first, second = list(pairwise(map(_rgb, stops)))[min(int(at), len(stops) - 2)]
    part = at - min(int(at), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def ink(color: tuple[int, int, int]) -> str:
    """Black or white, whichever contrasts more with a color (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
