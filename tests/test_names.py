"""What only one part is called is said in that part's file alone: a new part is one file, and no other knows of it."""

from __future__ import annotations

import re

import pytest

from rws_cli import registry

ORDINARY = """
    arithmetic auto causal choices classifier code composite confidence constant core credit devices diversity dynamic endpoint entropy evaluate
    factor fixed hex instructions keyword_coverage keywords left_to_right length local margin math none perplexity process processes
    prompt random refine repetition reward shuffled sudoku tensor_parallel text threshold verifier
"""
"""Words that mean other things too. All other names of parts are held to."""
EXCEPTIONS = {
    ("rws", ""): "the program is called so",
    ("fk", "search/particle_gibbs.py"): "that search is FK steering in sweeps, and derives from it",
    ("dus", "analysis/curves.py"): "curves are compared with it, confidence, and left_to_right; a sampler's name",
    ("dus", "cli/compare.py"): "the same",
    ("recorded_scale", "config/renamed.py"): "the table of old names says what is called so now",
    ("constant_scale", "config/renamed.py"): "the same",
    ("lm_eval", "benchmarks/harness.py"): "the library is called so, and its tasks are loaded here",
    ("lm_eval", "runs/lm_eval.py"): "the model for that library",
    ("lm_eval", "cli/lm_eval.py"): "the command of that library",
    ("lm_eval", "cli/__init__.py"): "the same",
    ("p2", "orders/margin.py"): "the second probability",
    ("pc", "runs/records.py"): "pyarrow.compute is commonly called so",
    ("pc", "analysis/frames.py"): "the same",
}
EXCEPTIONS |= {(name, "models/families.py"): "the table of all families" for name in registry.available("model")}
"""Name and file, or "" for all files → why."""
FILES = {
    file.relative_to(registry.PACKAGE).as_posix(): file.read_text(encoding="utf-8")
    for file in registry.PACKAGE.rglob("*.py")
    if not {"assets", "conf"} & set(file.relative_to(registry.PACKAGE).parts)
}
OWN: dict[str, set[str]] = {}
"""Name → the files of the parts of that name."""
for role, folder in registry.ROLES.items():
    for name in registry.available(role):
        OWN.setdefault(name, set()).add(f"{folder}/{name}.py")
NAMES = sorted(OWN.keys() - set(ORDINARY.split()))


def said(name: str, text: str) -> bool:
    """As its kind is written. Papers that are cited are written otherwise: LLaDA, WINO, Dream."""
    return re.search(rf"(?<![A-Za-z0-9]){name}(?![A-Za-z0-9])", text) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_in_its_own_file_alone(name: str) -> None:
    excepted = {file for known, file in EXCEPTIONS if known == name}
    others = [file for file, text in FILES.items() if file not in OWN[name] | excepted and said(name, text)]
    assert "" in excepted or not others


def test_the_test_sees_what_it_looks_for() -> None:
    assert {"klass", "wino", "remdm", "entrgi", "prophet", "dream", "llada", "humaneval", "gsm8k", "wandb"} < set(NAMES)
    assert said("klass", 'if s.kind == "klass":')
    assert said("klass", "from rws_cli.schedules.klass import Klass")
    assert said("remdm", "remdm_cap")
    assert not said("eb", "web")
    assert "schedules/klass.py" in FILES
