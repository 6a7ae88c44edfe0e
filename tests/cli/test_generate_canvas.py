"""`rws generate --canvas`: only masks are decoded, and the length follows from the canvas."""

from __future__ import annotations

import json

import rws_cli

PROMPT = "sam has 4 pens, buys 3 more. how many now?"
CANVAS = "4 +[MASK:3]. ####[MASK]"


def test_a_canvas_is_decoded(rws) -> None:
    result = rws("generate", PROMPT, "--canvas", CANVAS, "--json", "sampler=confidence")
    assert result.exit_code == 0, result.output
    made = json.loads(result.output)
    assert made["config"]["sampler"]["gen_length"] == 8
    assert made["config"]["benchmark"]["canvas"] == CANVAS
    assert sorted(made["trace"]["position"]) == [2, 3, 4, 7]
    assert [text for _, text in made["sample"]["fixed"]] == ["4", " +", ".", " ####"]
    assert made["sample"]["tokens"] == rws_cli.generate(PROMPT, "sampler=confidence", canvas=CANVAS).sample["tokens"]
    plain = rws("generate", PROMPT, "--canvas", CANVAS, "sampler=confidence", "sampler.gen_length=12")
    assert plain.output.strip() == made["sample"]["completion"]  # what is behind the canvas changes nothing


def test_a_canvas_that_cannot_be_used(rws) -> None:
    for canvas, sentence in (
        ("4 + 3", "The canvas has no mask: write [MASK:12] where twelve tokens are missing."),
        ("4[MASK:9]", "set sampler.gen_length=10 or more, not 8"),
    ):
        result = rws("generate", PROMPT, "--canvas", canvas, "sampler.gen_length=8")
        assert result.exit_code == 2
        assert sentence in " ".join(result.output.split())
    assert rws("generate", PROMPT, "--canvas", "4 + 3").exit_code == 2
