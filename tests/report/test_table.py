"""Tables from records: figures against arithmetic by hand, and what each form does with special characters."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from support import write_run

from rws_cli.analysis.compare import Cell
from rws_cli.analysis.measures import measure
from rws_cli.analysis.summary import summarize
from rws_cli.analysis.table import Grid
from rws_cli.errors import UsageError
from rws_cli.report.compare import print_comparisons
from rws_cli.report.escape import spreadsheet
from rws_cli.report.sheets import Strong
from rws_cli.report.table import as_sheet, print_tables, read_grids, write_tables

GUIDANCE = {"reversals": 0.125, "scale": 1.5, "temperature": 0.75, "changed_selections": 0.0}
METRICS = {"pass_at": {"1": 0.25, "5": 0.5}, "guidance": GUIDANCE, "measures": {"n": 3.0}}


def edit(file: Path, **fields: Any) -> None:
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | fields))


def sweep(folder: Path, table: dict[str, Any], task: str = "x") -> Path:
    """Two runs; R&D_1 solves one of two examples more, in twice the time."""
    for number, (label, values) in enumerate({"default": (1.0, 0.0), "R&D_1": (1.0, 1.0)}.items()):
        run = write_run(
            folder / str(number + (2 if task == "y" else 0)), f"s{number}", 0, dict(zip("ab", values, strict=True))
        )
        config = json.loads((run / "manifest.json").read_text())["config"]
        config["benchmark"] = {"name": task}
        edit(run / "manifest.json", config=config | {"label": label, "table": table})
        lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        for sample in lines:
            sample["cost"]["seconds"] = 0.5 * (number + 1)
        (run / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in lines))
        (run / "metrics.json").write_text(json.dumps(summarize(lines) | METRICS))
    return folder


def relabel(run: Path, label: str) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    edit(run / "manifest.json", config=manifest["config"] | {"label": label})


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return {row["label"]: row for row in csv.DictReader(file)}


def test_figures_differences_and_published_values(tmp_path: Path) -> None:
    columns = ["accuracy", "god", "pass@5", "reversals", "n"]
    table = {"title": "Ours", "columns": columns, "published": {"R&D_1": {"accuracy": 61.5}}, "note": "Of two."}
    title, _, header, _, default, other, _, *notes = write_tables([sweep(tmp_path, table)]).splitlines()
    assert title == "**Ours**"
    assert header == "|  | accuracy, % | published | GOD | pass@5, % | rank reversals, % | n |"
    assert default == "| default | 50.0 | – | 5.00 | 50.0 | 12.5 | 3.00 |"
    assert other.startswith("| R&D_1 | 100.0 (+50.0 [+0.0, +100.0]) | 61.5 | 10.00 (+5.00 [+0.00, +10.00]) |")
    assert notes[0].startswith("x, x: 2 examples, seed 0.")
    assert notes[1:] == ["GOD: mean distance from left-to-right order, in tokens.", "Of two."]
    rows = rows_of(tmp_path)
    assert [float(rows[name]["accuracy"]) for name in rows] == [0.5, 1.0]
    assert float(rows["R&D_1"]["accuracy_difference"]) == 0.5
    assert [rows[name]["accuracy_published"] for name in rows] == ["", "61.5"]


def test_overhead_is_the_share_of_time_beyond_the_first_line(tmp_path: Path) -> None:
    markdown = write_tables([sweep(tmp_path, {"columns": ["overhead", "seconds"]})])
    assert "| default | – | 0.50 |" in markdown
    assert "| R&D_1 | 100.0 [100.0, 100.0] | 1.00 (+0.50 [+0.50, +0.50]) |" in markdown
    row = rows_of(tmp_path)["R&D_1"]
    assert [float(row[key]) for key in ("overhead", "overhead_low", "overhead_high")] == [1, 1, 1]


def test_a_column_that_a_run_does_not_have_is_a_dash(tmp_path: Path) -> None:
    markdown = write_tables([sweep(tmp_path, {"columns": ["win_rate", "win_rate.3", "perplexity.corpus", "reward"]})])
    assert "| default | – | – | – | – |" in markdown


def test_latex_escapes_what_latex_reads(tmp_path: Path) -> None:
    write_tables([sweep(tmp_path, {"columns": ["accuracy"], "title": "50 % of a_b {c} #1 \\ $2"})])
    latex = (tmp_path / "table.tex").read_text()
    assert r"50 \% of a\_b \{c\} \#1 \textbackslash{} \$2" in latex
    assert r"R\&D\_1 & 100.0 (+50.0 [+0.0, +100.0]) \\" in latex
    assert r" & accuracy, \% \\" in latex


def test_latex_has_minus_signs_and_no_title_twice(tmp_path: Path) -> None:
    folder = sweep(tmp_path, {"columns": ["god", "n"]})
    relabel(folder / "1", "a^2 ~ b-1")
    relabel(folder / "0", "first")
    runs = [folder / "1", folder / "0"]  # so that the difference is below zero
    write_tables(runs)
    latex = (folder / "1" / "table.tex").read_text()
    assert r"\caption{x, x: 2 examples, seed 0." in latex
    assert " & GOD & n " in latex
    assert "GOD: mean distance from left-to-right order, in tokens." in latex
    assert r"a\textasciicircum{}2 \textasciitilde{} b-1 & 10.00 &" in latex
    assert "first & 5.00 ($-$5.00 [$-$10.00, +0.00]) &" in latex


def test_no_label_is_markup_or_a_formula(tmp_path: Path) -> None:
    folder = sweep(tmp_path, {"columns": ["god"], "note": "<script>x</script>"})
    relabel(folder / "0", '=HYPERLINK("http://x")')
    relabel(folder / "1", "a|b <img src=x> *c* [d](e) `f` \x1b[31m")
    text = write_tables([folder])
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.count("<td>") + page.count("<td ") == 4
    assert "a|b &lt;img src=x&gt; *c* [d](e) `f` �[31m" in page
    assert "<script" not in page
    with (folder / "table.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels[0] == '\'=HYPERLINK("http://x")'
    assert [spreadsheet(value) for value in (-0.5, "-0.5", "+1e3", "-x", "@a", "\t=1", "", "a=1", None)] == [
        -0.5, "-0.5", "+1e3", "'-x", "'@a", "'\t=1", "", "a=1", None
    ]  # fmt: skip


def test_one_run_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A table needs two runs"):
        write_tables([sweep(tmp_path, {}) / "0"])


def test_one_run_beside_a_published_figure_is_a_table(tmp_path: Path) -> None:
    figures = {"columns": ["accuracy"], "published": {"R&D_1": {"accuracy": 98.5}}}
    markdown = write_tables([sweep(tmp_path, figures) / "1"])
    assert "| R&D_1 | 100.0 | 98.5 |" in markdown
    assert "the first line" not in markdown


def test_speedup_and_how_many_answers_are_the_same(tmp_path: Path) -> None:
    markdown = write_tables([sweep(tmp_path, {"columns": ["speedup", "same_completions", "tokens"]})])
    assert "| default | 1.00 | – | 42.00 |" in markdown
    assert "| R&D_1 | 0.50 | 50.0 | 42.00 (+0.00 [+0.00, +0.00]) |" in markdown
    row = rows_of(tmp_path)["R&D_1"]
    assert [float(row[key]) for key in ("speedup", "same_completions")] == [0.5, 0.5]


def test_answers_are_compared_with_those_of_the_same_seed(tmp_path: Path) -> None:
    """The lines list their runs in other orders of seeds; seed 0 gives the tokens of a, seed 1 those of b."""
    runs = [
        write_run(tmp_path / str(n), sampler, seed, {"a": float(seed), "b": 0.5})
        for n, (sampler, seed) in enumerate([("default", 0), ("default", 1), ("other", 1), ("other", 0)])
    ]
    for run in runs:
        config = json.loads((run / "manifest.json").read_text())["config"]
        edit(run / "manifest.json", config=config | {"table": {"title": "", "columns": ["same_completions"]}})
    write_tables(runs)
    assert float(rows_of(tmp_path / "0")["other"]["same_completions"]) == 1.0


def test_a_sweep_over_two_benchmarks_has_two_tables(tmp_path: Path) -> None:
    for task in ("x", "y"):
        sweep(tmp_path, {"columns": ["accuracy"], "title": "Both"}, task)
    markdown = write_tables([tmp_path])
    assert markdown.count("**Both**") == 2
    assert "x, x: 2 examples" in markdown
    assert "y, x: 2 examples" in markdown
    with (tmp_path / "table.csv").open() as file:
        rows = [(row["task"], row["label"], float(row["accuracy"])) for row in csv.DictReader(file)]
    assert rows == [(f"{task}, x", name, value) for task in "xy" for name, value in (("default", 0.5), ("R&D_1", 1.0))]
    print_comparisons([tmp_path / str(number) for number in range(4)])
    with pytest.raises(UsageError, match="no example in common|another"):
        print_comparisons([tmp_path / "0", write_run(tmp_path / "z", "z", 0, {"other": 1.0})])


def test_a_terminal_shows_it_as_comparisons_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path, {"title": "Ours", "columns": ["god"], "published": {"R&D_1": {"god": 9}}})
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    print_tables([folder])
    seen = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "Ours" in seen
    assert re.search(r"R&D_1 +10\.00 \(\+5\.00 \[\+0\.00, \+10\.00\]\) +9", seen)
    assert "|" not in seen
    assert as_sheet(read_grids([folder])[0]).headers == ["", "GOD", "published"]


def test_what_differs_for_sure_is_strong() -> None:
    cells = [
        Cell(1.0, 0.5, (0.2, 0.8)), Cell(1.0, 0.5, (-0.2, 0.8)), Cell(1.0, None, (0.2, 0.8)), Cell(0.1, -0.5, (-0.8, -0.2)),
    ]  # fmt: skip
    grid = Grid("t", "x", [], list(map(measure, "abcd")), [("run", cells)])
    assert [isinstance(cell, Strong) for cell in as_sheet(grid).rows[0]] == [False, True, False, False, True]
