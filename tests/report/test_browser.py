"""The report as a reader uses it: headless Chromium opens the file, and the tests click, type and look.

They need playwright (a development dependency) and a Chromium or Chrome on this machine; without one they are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import small_run, write_big_run
from typer.testing import CliRunner

from rws_cli.analysis.trajectory import trajectory_of
from rws_cli.cli import app

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
pytestmark = pytest.mark.skipif(CHROME is None and "CI" not in os.environ, reason="no Chromium on this machine")

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
PHONE, DESKTOP = (375, 800), (1280, 900)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=CHROME, args=QUIET.split())
        yield chrome
        chrome.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; what the page complains of or asks the network for is an error at the end."""
    pages, wrong = [], []

    def open_(file: Path, size: tuple[int, int] = DESKTOP, fragment: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        page = context.new_page()
        pages.append(context)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(f"file://{file}{fragment}")
        page.wait_for_selector("body[data-ready]", timeout=20_000)
        return page

    yield open_
    for context in pages:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def report(llada_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of six examples in six steps; the first example's text is markup."""
    folder = tmp_path_factory.mktemp("sweep")
    type_ = partial(CliRunner().invoke, app)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert type_(["run", "-m", *small_run(llada_folder), "sampler=rws,random"]).exit_code == 0
        for job in "01":
            file = folder / "outputs/multirun/v001" / job / "samples.jsonl"
            samples = [json.loads(line) for line in file.read_text().splitlines()]
            samples[0] |= {"prompt": EVIL, "completion": EVIL}
            samples[1] |= {"completion": "a needle in a stack"}
            samples[2]["grade"] |= {"correct": job == "0"}
            file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        assert type_(["report", "outputs/multirun/latest"]).exit_code == 0
    return folder / "outputs/multirun/v001/report.html"


def shown_ids(page: Any) -> list[str]:
    return page.locator("#table tbody tr td:first-child").all_inner_texts()


def test_the_slider_replays_what_the_trace_says(opened, report: Path) -> None:
    page = opened(report)
    row = pq.read_table(report.parent / "0" / "trace.parquet").to_pylist()[0]
    trajectory = trajectory_of(row, json.loads((report.parent / "0" / "samples.jsonl").read_text().splitlines()[0]))
    strip = page.locator(".strip").nth(1)  # after the one that goes from left to right
    assert strip.locator("h4").inner_text().startswith(" rws")
    spans = strip.locator(".tokens span")
    assert spans.count() == 36
    for step in (0, 1, 4, 6):
        page.locator("#step").fill(str(step))
        assert spans.all_text_contents() == [trajectory.display(p[1]) if p else "·" for p in trajectory.states[step]]
        assert page.locator("#where").inner_text() == f"{step} of 6"
        if step:
            reward = next(r for s, r in zip(row["step"], row["reward"], strict=True) if s == step - 1)
            assert f"reward {float(f'{reward:.4g}'):g}" in strip.locator(".now").inner_text()
    left = page.locator(".strip").nth(0)
    page.locator("#step").fill("2")
    assert [t == "·" for t in left.locator(".tokens span").all_text_contents()] == [False] * 12 + [True] * 24
    before = spans.nth(row["position"][0]).evaluate("e => e.style.background")
    page.locator("#color").select_option("confidence")
    assert spans.nth(row["position"][0]).evaluate("e => e.style.background") != before


def test_it_plays_and_keys_move_the_slider(opened, report: Path) -> None:
    page = opened(report)
    page.locator("#play").click()
    expect(page.locator("#where")).to_have_text("6 of 6", timeout=10_000)
    assert page.locator("#play").inner_text() == "Play"
    page.locator("#step").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#where").inner_text() == "5 of 6"
    assert page.locator("#step").get_attribute("aria-valuetext") == "after step 5 of 6"


def test_filter_search_and_sort(opened, report: Path) -> None:
    page = opened(report)
    samples = [json.loads(line) for line in (report.parent / "0" / "samples.jsonl").read_text().splitlines()]
    ids = [sample["id"] for sample in samples]
    assert shown_ids(page) == ids
    for which, right in (("right", True), ("wrong", False)):
        page.locator("#which").select_option(which)
        assert shown_ids(page) == [s["id"] for s in samples if s["grade"]["correct"] is right]
    page.locator("#which").select_option("differ")
    assert shown_ids(page) == [ids[2]]
    page.locator("#which").select_option("all")
    page.locator("#search").fill("NEEDLE")
    expect(page.locator("#count")).to_have_text("1 of 6 examples")
    assert shown_ids(page) == [ids[1]]
    page.locator("#search").fill("no such text")
    expect(page.locator("#count")).to_have_text("0 of 6 examples")
    page.locator("#search").fill("")
    expect(page.locator("#count")).to_have_text("6 of 6 examples")
    page.get_by_role("button", name="rws: GOD").click()
    by_god = sorted(samples, key=lambda s: -s["order"]["god_tokens"])
    assert shown_ids(page) == [s["id"] for s in by_god]
    page.get_by_role("button", name="rws: GOD").click()
    god = {s["id"]: s["order"]["god_tokens"] for s in samples}
    assert [god[i] for i in shown_ids(page)] == sorted(god.values())
    page.get_by_role("button", name=ids[3], exact=True).click()
    expect(page.locator("#replay-title")).to_have_text(ids[3])
    assert page.evaluate("document.activeElement.id") == "replay-title"
    again = opened(report, fragment=page.evaluate("location.hash"))
    assert again.locator("#replay-title").inner_text() == ids[3]


def test_what_a_model_wrote_stays_text(opened, report: Path) -> None:
    page = opened(report)
    assert page.title() != "owned"
    assert page.locator("#asked pre").first.inner_text() == EVIL
    assert page.locator("#table tbody tr").first.locator("td").nth(1).inner_text() == EVIL
    assert page.locator("main img").count() == 0


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_all_can_be_read(opened, report: Path, size: tuple[int, int], scheme: str) -> None:
    page = opened(report, size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    # Letters of figures inside them, and none over another.
    clipped = page.evaluate(
        """() => [...document.querySelectorAll('svg')].flatMap(svg => {
            const around = svg.getBoundingClientRect();
            const boxes = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim())
                .map(t => [t.textContent, t.getBoundingClientRect()]);
            const out = boxes.filter(([, b]) => b.left < around.left - 1 || b.right > around.right + 1
                || b.top < around.top - 1 || b.bottom > around.bottom + 1);
            const over = boxes.flatMap(([t, a], n) => boxes.slice(n + 1).filter(([, b]) => a.left < b.right - 1
                && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2).map(([u]) => [t, u]));
            return [...out.map(([t]) => t), ...over];
        })"""
    )
    assert clipped == []
    # Contrast of at least 4.5 (WCAG AA) between letters and what is behind them.
    faint = page.evaluate(
        """() => {
            const parse = c => c.match(/[\\d.]+/g).map(Number);
            const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map(v => v / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
            const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                if (c.length < 4 || c[3] > 0.99) return c; } return [255, 255, 255]; };
            return [...document.querySelectorAll('h1,h2,h3,h4,p,td,th,a,button,label,code,pre,figcaption,.tokens span')]
                .filter(e => e.checkVisibility() && !e.disabled && e.textContent.trim() && !e.closest('.unseen'))
                .map(e => { const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
                    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName, e.textContent.slice(0, 40)]; })
                .filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert faint == []


def test_readers_that_do_not_see_find_names(opened, report: Path) -> None:
    page = opened(report)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, [role=img]')].filter(e => e.checkVisibility())
            .filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"which", "whose", "search", "play", "step", "color", "after"} <= reached


def test_one_example(opened, rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small, "benchmark.limit=1").exit_code == 0
    assert rws("report", "outputs/sudoku/small-rws").exit_code == 0
    page = opened(tmp_path / "outputs/sudoku/small-rws/v001/report.html")
    assert page.locator("#count").inner_text() == "1 of 1 examples"
    assert page.locator(".strip").count() == 2


@pytest.mark.slow
def test_five_thousand_examples(opened, rws, tmp_path: Path) -> None:
    """As many as a benchmark has, 64 tokens each: the file stays under 20 MB and is ready within seconds.

    On an idle machine it takes 1 second; the limit leaves room for a slow or busy one.
    """
    write_big_run(tmp_path / "big", 5000, 64)
    assert rws("report", "big").exit_code == 0
    file = tmp_path / "big" / "report.html"
    assert file.stat().st_size < 20e6
    seconds = []
    for _ in range(3):  # other tests may have the machine at the same moment
        started = time.monotonic()
        page = opened(file)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 5, seconds
    assert page.locator("#count").inner_text() == "5000 of 5000 examples"
    page.locator("#search").fill("question 4321 ")
    expect(page.locator("#count")).to_have_text("1 of 5000 examples", timeout=10_000)
    assert shown_ids(page) == ["e-4321"]
    page.get_by_role("button", name="e-4321").click()
    expect(page.locator("#replay-title")).to_have_text("e-4321", timeout=10_000)
    assert page.locator(".strip").nth(1).locator(".tokens span").count() == 64
