"""Comparison of runs: pairing, seeds, intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support import write_run

from rws_cli.analysis.statistics import bootstrap_interval, difference_p, holm
from rws_cli.errors import UsageError
from rws_cli.report.compare import comparison_sheets, p_value, print_comparisons
from rws_cli.report.sheets import Sheet, rich_table
from rws_cli.report.terminal import signed_number
from rws_cli.runs.reading import compare_runs


def test_lines_pair_examples_and_average_seeds(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "0", "confidence", 0, {"a": 1.0, "b": 0.0, "c": 1.0, "only here": 1.0}, status="running"),
        write_run(tmp_path / "1", "rws", 0, {"c": 1.0, "b": 1.0, "a": 1.0}),
        write_run(tmp_path / "2", "rws", 1, {"a": 0.0, "b": 1.0, "c": 1.0}),
    ]
    baseline, rws = compare_runs(runs)
    assert (baseline.label, baseline.seeds, baseline.examples) == ("confidence", [0], 3)
    assert baseline.cells["accuracy"].value == pytest.approx(2 / 3)
    assert baseline.cells["accuracy"].interval is None
    assert (rws.label, rws.seeds) == ("rws", [0, 1])
    assert rws.cells["accuracy"].value == pytest.approx(5 / 6)
    assert rws.cells["accuracy"].difference == pytest.approx(1 / 6)  # per example: −1/2, +1, 0
    low, high = rws.cells["accuracy"].interval or (math.nan, math.nan)
    assert -0.5 <= low < 1 / 6 < high <= 1.0
    assert rws.cells["god"].difference == pytest.approx(10 / 6)
    assert rws.cells["reward"].value is None
    assert rws.cells["length.words"].difference == pytest.approx(4 / 6)


def test_labels_tell_same_named_samplers_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(n), "rws", 0, {"a": 1.0, "b": 0.0}, strength=n) for n in (1, 2)]
    assert [line.label for line in compare_runs(runs)] == ["rws (strength=1)", "rws (strength=2)"]


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "confidence", 0, {"a": 1.0})
    b = write_run(tmp_path / "b", "rws", 0, {"b": 1.0})
    c = write_run(tmp_path / "c", "rws", 0, {"a": 1.0}, prompt="another")
    with pytest.raises(UsageError, match="no example in common"):
        compare_runs([a, b])
    with pytest.raises(UsageError, match="another prompt"):
        compare_runs([a, c])
    d = write_run(tmp_path / "d", "rws", 0, {"a": 1.0}, reference="another")
    with pytest.raises(UsageError, match="another reference"):
        compare_runs([a, d])
    e = write_run(tmp_path / "e", "rws", 0, {"a": 1.0}, version=2)
    f = write_run(tmp_path / "f", "rws", 0, {"a": 1.0, "b": 0.0})
    with pytest.raises(UsageError, match="has 2 examples and .* 1, 1 in common"):
        compare_runs([a, f])
    with pytest.raises(UsageError, match="version 2 of its grader.* rws grade"):
        compare_runs([a, e])


def test_bootstrap_interval_is_the_normal_one_for_many_examples() -> None:
    differences = np.random.default_rng(0).normal(0.3, 2.0, 2000)
    low, high = bootstrap_interval(differences)
    half = stats.norm.ppf(0.975) * differences.std() / math.sqrt(2000)
    assert low == pytest.approx(differences.mean() - half, abs=0.01)
    assert high == pytest.approx(differences.mean() + half, abs=0.01)
    assert bootstrap_interval(differences) == (low, high)
    assert bootstrap_interval(np.zeros(5)) == (0.0, 0.0)


def test_mcnemars_exact_test_is_a_fair_coins() -> None:
    """Of n examples on which the two disagree, k in favor of one: 2 · P(Binomial(n, 1/2) ≥ k)."""
    for gained, lost in ((0, 0), (1, 0), (6, 0), (9, 2), (4, 4), (3, 11)):
        differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 5)
        n, k = gained + lost, max(gained, lost)
        tail = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
        assert difference_p(differences) == pytest.approx(min(1.0, 2 * tail))


def test_averaged_seeds_are_tested_by_swapping_sides() -> None:
    """Against every one of the 2^n ways to swap."""
    differences = np.array([0.5, 0.5, 1.0, -0.5, 0.5, 0.0, 1.0, 0.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    means = (differences[:, None] * signs).mean(0)
    exact = 2 * min((means >= differences.mean() - 1e-12).mean(), (means <= differences.mean() + 1e-12).mean())
    assert difference_p(differences) == pytest.approx(exact, abs=0.01)


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_lines_have_corrected_p_values(tmp_path: Path) -> None:
    names = [f"e{n}" for n in range(8)]
    runs = [
        write_run(tmp_path / "0", "confidence", 0, dict.fromkeys(names, 1.0)),
        write_run(tmp_path / "1", "rws", 0, dict.fromkeys(names, 1.0)),
        write_run(tmp_path / "2", "random", 0, dict.fromkeys(names, 0.0)),
    ]
    assert [line.p for line in compare_runs(runs)] == [None, 1.0, pytest.approx(2 * 2 / 2**8)]


def test_what_rounds_to_nothing_has_a_plus() -> None:
    numbers = [signed_number(value, ",.2f") for value in (-0.004, 0.0, -0.006, 1234.5, -1234.5)]
    assert numbers == ["+0.00", "+0.00", "-0.01", "+1,234.50", "-1,234.50"]
    assert signed_number(-0.4, ".0f") == "+0"


def test_a_p_value_that_rounds_to_nothing_is_not_zero() -> None:
    assert [p_value(p) for p in (None, 1.0, 0.0312, 0.0006, 0.00049, 0.0)] == [
        "–",
        "1.000",
        "0.031",
        "0.001",
        "<0.001",
        "<0.001",
    ]


def test_tables_say_what_their_numbers_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"e{n}" for n in range(16)]
    runs = [write_run(tmp_path / str(n), f"s{n}", 0, dict.fromkeys(names, float(n))) for n in range(2)]
    print_comparisons(runs)
    printed = " ".join(capsys.readouterr().out.split())
    assert "GOD: mean distance from left-to-right order, in tokens" in printed
    assert "seed(s)" in printed
    assert "<0.001" in printed
    titles = [sheet.title for sheet in comparison_sheets(compare_runs(runs))]
    assert titles == ["Quality", "Decoding order and cost per example", ""]


def test_headers_wider_than_their_figures_take_a_line_per_word() -> None:
    sheet = Sheet(["sampler", "model passes", "difference"])
    sheet.add("rws", "1.0", "+1.000 [-1.000, +2.000]")
    assert [column.header for column in rich_table(sheet).columns] == ["sampler", "model\npasses", "difference"]
