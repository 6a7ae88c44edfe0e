"""Photograph a report in headless Chromium, as the README shows it.

    python scripts/report_picture.py outputs/multirun/latest/report.html --out scripts/report.png

The summary on the left; on the right an example halfway through its replay. Needs playwright (`make dev` installs it)
and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 820, 900


def photograph(report: Path, example: int, step: int) -> Image.Image:
    chrome = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chrome is None:
        raise SystemExit("There is no Chromium on this machine.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chrome, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(f"file://{report.resolve()}")
        page.wait_for_selector("body[data-ready]")
        shots = [page.screenshot()]
        page.locator("#table tbody button").nth(example).click()
        page.locator("#step").fill(str(step))
        page.evaluate("document.activeElement.blur()")
        page.locator("#replay").evaluate("e => e.scrollIntoView()")
        shots.append(page.screenshot())
        browser.close()
    both = Image.new("RGB", (2 * WIDTH + 8, HEIGHT), "#d5dbe1")
    for n, shot in enumerate(shots):
        both.paste(Image.open(io.BytesIO(shot)), (n * (WIDTH + 8), 0))
    return both.quantize(64, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--example", type=int, default=3, help="which line of the table, counted from 0")
    parser.add_argument("--step", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("scripts/report.png"))
    args = parser.parse_args()
    photograph(args.report, args.example, args.step).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
