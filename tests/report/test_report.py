"""Reports: what stands in the page, that nothing in it is obeyed, and figures for papers."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from rws_cli.analysis.frames import by_step, heat
from rws_cli.analysis.trajectory import END
from rws_cli.report import html
from rws_cli.report.colors import ink, mixed
from rws_cli.report.figures import FIGURES, svg
from rws_cli.report.runs import load_report_runs
from rws_cli.report.terminal import number

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;"


class Tags(HTMLParser):
    """The page as a browser reads it: tags with their attributes, and the text inside each kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def unpacked(page: str, name: str) -> Any:
    letters = re.search(rf'id="{name}">([A-Za-z0-9+/=]+)</script>', page)
    assert letters
    return json.loads(gzip.decompress(base64.b64decode(letters[1])))


def edit(run: Path, **fields: Any) -> None:
    """Change every sample of a run."""
    lines = [json.loads(line) | fields for line in (run / "samples.jsonl").read_text().splitlines()]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_report_of_one_run(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    result = rws("report", "outputs/sudoku/small-rws")
    assert result.output.strip() == "outputs/sudoku/small-rws/v001/report.html", result.output
    run = tmp_path / "outputs/sudoku/small-rws/v001"
    page = (run / "report.html").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    cells = Tags(page).text["td"]
    low, high = metrics["accuracy_interval"]
    assert f"{100 * metrics['accuracy']:.1f} %" in cells
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in cells
    for value in (metrics["reward"], metrics["order"]["god_tokens"]):
        assert number(value) in cells
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    index = unpacked(page, "index")
    assert [row[0] for row in index["examples"]] == [s["id"] for s in samples]
    assert [row[2] for row in index["examples"]] == [[int(s["grade"]["correct"])] for s in samples]
    texts, trajectories = unpacked(page, "text-0"), unpacked(page, "trajectory-0")
    assert [text["completions"] for text in texts] == [[s["completion"]] for s in samples]
    for (trajectory,), sample in zip(trajectories["rows"], samples, strict=True):
        assert sorted(trajectory["p"]) == list(range(36))
        assert trajectory["k"] == [6] * 6
        written = dict(zip(trajectory["p"], (trajectories["words"][word] for word in trajectory["t"]), strict=True))
        ends = [position for position in range(36) if written[position] == END]
        assert (ends or [36])[0] == sample["length"]
        assert len(trajectory["r"]) == len(trajectory["x"]) == 6
    assert "sampler:" in page  # the configuration, as YAML
    assert json.loads((run / "manifest.json").read_text())["config_hash"] in page


def test_a_report_needs_no_network_and_obeys_nobody(rws, small: list[str], tmp_path: Path) -> None:
    label = "label='a <b>label</b> & $x'"
    assert rws("run", *small, label).exit_code == 0
    run = tmp_path / "outputs/sudoku/small-rws/v001"
    edit(run, prompt=EVIL, completion=EVIL, reference=EVIL, id=EVIL, question=EVIL)
    rows = [json.loads((run / "samples.jsonl").read_text().splitlines()[0])]
    import pyarrow.parquet as pq

    trace = pq.read_table(run / "trace.parquet")
    index = trace.schema.get_field_index("id")
    pq.write_table(trace.set_column(index, "id", [[EVIL] * len(trace)]), run / "trace.parquet")
    (run / "samples.jsonl").write_text(json.dumps(rows[0]) + "\n")
    result = rws("report", str(run))
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text()
    tags = Tags(page)
    scripts = [attributes for tag, attributes in tags.found if tag == "script"]
    assert [s.get("id") for s in scripts] == ["index", "text-0", "trajectory-0", None]
    assert not [tag for tag, attributes in tags.found if any(name.startswith("on") for name in attributes)]
    assert not [tag for tag, _ in tags.found if tag in ("img", "iframe", "link", "object", "base")]
    for _, attributes in tags.found:
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))
    policy = next(a["content"] for tag, a in tags.found if a.get("http-equiv") == "Content-Security-Policy")
    script = page[page.rindex("<script>") + 8 : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "a <b>label</b> & $x" in tags.text["b"]
    assert unpacked(page, "text-0")[0]["completions"] == [EVIL]


def test_a_report_of_a_sweep_says_what_compare_says(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", "-m", *small, "sampler=confidence,random", "metric=[length]").exit_code == 0
    assert rws("report", "outputs/multirun/latest").output.strip() == "outputs/multirun/v001/report.html"
    page = (tmp_path / "outputs/multirun/v001/report.html").read_text()
    shown = rws("compare", "outputs/multirun/v001").output
    for cell in Tags(page).text["td"]:
        if "[" in cell:
            assert cell in shown
    assert [run["label"] for run in unpacked(page, "index")["runs"]] == ["confidence", "random"]
    assert "sampler.order" in page  # where they differ
    assert all(len(row) == 2 for row in unpacked(page, "trajectory-0")["rows"])
    single = rws("report", "outputs/multirun/v001/0", "outputs/multirun/v001/1", "--out", "mine.html")
    assert single.output.strip() == "mine.html"
    assert (tmp_path / "mine.html").exists()


def test_a_sweep_that_nothing_marks_is_compared_all_the_same(rws, small: list[str], tmp_path: Path) -> None:
    what = [
        "sampler=confidence,random",
        "reward=none",
        "benchmark=prompt",
        "benchmark.text=w1",
        "benchmark.gen_length=8",
    ]
    result = rws("run", "-m", *small[:2], *what)
    assert result.exit_code == 0, result.output
    assert re.search(r"random +0 +– +– +– +– +–", result.output)
    for command in ("compare", "table", "report"):
        result = rws(command, "outputs/multirun/latest")
        assert result.exit_code == 0, result.output
    index = unpacked((tmp_path / "outputs/multirun/v001/report.html").read_text(), "index")
    assert index["examples"][0][2] == [None, None]


def test_runs_of_several_benchmarks_get_a_report_each(rws, small: list[str], tmp_path: Path) -> None:
    sweep = ["run", "-m", *small, "sampler=confidence,random", "benchmark=sudoku,arithmetic", "benchmark.limit=2"]
    assert rws(*sweep, "sampler.tokens_per_step=20").exit_code != 2
    result = rws("report", "outputs/multirun/latest")
    assert result.output.split() == [
        f"outputs/multirun/v001/report-{name}-small.html" for name in ("sudoku", "arithmetic")
    ]
    wrong = rws("report", "outputs/multirun/latest", "--png")
    assert wrong.exit_code == 2
    assert "one benchmark and model" in wrong.output


def test_a_run_that_is_not_done_is_shown_as_far_as_it_is(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    run = tmp_path / "outputs/sudoku/small-rws/v001"
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    kept = (run / "samples.jsonl").read_text().splitlines(keepends=True)[:2]
    (run / "samples.jsonl").write_text("".join(kept))
    (run / "trace").mkdir()
    (run / "trace.parquet").rename(run / "trace" / "part.parquet")
    assert rws("report", str(run)).exit_code == 0
    page = (run / "report.html").read_text()
    assert "rws is interrupted" in page
    assert len(unpacked(page, "index")["examples"]) == 2
    (run / "samples.jsonl").write_text("")
    assert rws("report", str(run)).exit_code == 1


def test_what_is_too_much_goes_without_replay(rws, small: list[str], tmp_path: Path, monkeypatch) -> None:
    assert rws("run", *small).exit_code == 0
    run = tmp_path / "outputs/sudoku/small-rws/v001"
    monkeypatch.setattr(html, "CHUNK", 2)
    monkeypatch.setattr(html, "MOST_BYTES", 0)
    assert rws("report", str(run)).exit_code == 0
    page = (run / "report.html").read_text()
    assert "only the first 0 examples can be replayed here" in page
    assert 'id="text-2"' in page
    assert 'id="trajectory-0"' not in page


def test_figures_for_a_paper(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    run = "outputs/sudoku/small-rws"
    written = rws("report", run, "--png", "--pdf").output.split()
    names = ["order", "order_heatmap", "by_step", "god", "reversals"]
    assert [Path(path).name for path in written] == [f"{n}.{form}" for n in names for form in ("png", "pdf")]
    for path in written:
        if path.endswith("png"):
            with Image.open(tmp_path / path) as image:
                assert image.size[0] == (2100 if Path(path).stem == "order" else 1020)  # 7 and 3.4 inches at 300 dots
                assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
        else:
            assert (tmp_path / path).read_bytes().startswith(b"%PDF")
    before = (tmp_path / written[1]).read_bytes()
    rws("report", run, "--pdf", "--figure", "order", "--example", "0")
    assert (tmp_path / written[1]).read_bytes() == before  # the same numbers, the same file
    for wrong, said in (
        (["--png", "--figure", "gods"], "gods is not a figure: choose from order, order_heatmap, by_step, god, reversals; did you mean god?"),
        (["--png", "--example", "99"], "99 is not an example"),
        (["--figure", "god"], "add one of these"),
    ):  # fmt: skip
        result = rws("report", run, *wrong)
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())


def test_labels_are_letters_in_figures(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    (run,), _ = load_report_runs([tmp_path / "outputs/sudoku/small-rws/v001"])
    for name in FIGURES:
        drawn = svg(name, [replace(run, label=EVIL), replace(run, label="$\\frac{1}$")], run.samples[0]["id"])
        assert "<script" not in drawn
        assert "<img" not in drawn
        assert "$\\frac{1}$" in drawn
        ElementTree.fromstring(drawn)  # and it is well formed


def test_averages_by_hand(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    (run,), _ = load_report_runs([tmp_path / "outputs/sudoku/small-rws/v001"])
    cells = heat(run.run)
    assert cells.shape == (6, 36)
    np.testing.assert_allclose(cells.sum(0), 1)  # each position at some step
    np.testing.assert_allclose(cells.sum(1), 6)
    rows = run.run.rows(list(run.run.samples))
    assert cells[2, 5] == sum((2, 5) in zip(r["step"], r["position"], strict=True) for r in rows) / len(rows)
    frame = by_step(run.run, "confidence")
    assert frame is not None
    assert frame.index.tolist() == list(range(6))
    of_step = [np.mean([c for c, s in zip(r["confidence"], r["step"], strict=True) if s == 3]) for r in rows]
    assert frame["mean"][3] == pytest.approx(np.mean(of_step))
    assert frame["low"][3] == pytest.approx(np.percentile(of_step, 10))
    assert frame["high"][3] == pytest.approx(np.percentile(of_step, 90))


def test_colors_can_be_read_on() -> None:
    assert mixed(("#000000", "#ffffff"), 0.5) == (128, 128, 128)
    assert [ink(color) for color in ((0, 0, 0), (255, 255, 255), (23, 63, 115))] == ["#ffffff", "#000000", "#ffffff"]
