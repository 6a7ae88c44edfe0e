"""A reward of criteria that a judge selects and scores: against a slow reference, with a scripted judge, and as a whole run."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scripted_endpoint import Endpoint, said
from scripted_judge import CRITERIA, TREE, Scripted, Table, scripted, sections_of
from support import samples_of, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from rws_cli.benchmarks.base import Example
from rws_cli.config.composing import compose
from rws_cli.errors import RunError, UsageError
from rws_cli.judges.reward import RewardJudge
from rws_cli.models.language_model import Causal
from rws_cli.rewards.base import Candidate
from rws_cli.rewards.criteria import Criterion, dominates, fronts, last_object, read_tree, shuffled
from rws_cli.rewards.rubric import Rubric, split
from rws_cli.runs.plan import plan

NAMES = ["Correct", "Correct/Sums", "Correct/Logic", "Clear", "Clear/Short", "Useful"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return shutil.copy(CRITERIA, tmp_path / "tree.yaml")


@functools.cache
def defaults() -> Rubric:
    return compose("reward=rubric", "reward.tree=a.yaml", "sampler=confidence").reward


def rubric(tree: Path, judge: Scripted, **settings: Any) -> Rubric:
    return replace(defaults(), tree=str(tree), judge=judge, **settings).loaded(None, 0)


def judge(seed: int = 0, **more: Any) -> Scripted:
    return Scripted(name="scripted", table=Table(seed), **more)


def candidate(text: str, name: str = "e", **more: Any) -> Candidate:
    return Candidate(Example(name, "What is 1 + 1?", ""), text, 1.0, -1, **more)


# --- the rule, slowly -------------------------------------------------------------------------------------------------


def lines_of(text: str, most: int) -> list[str]:
    """Lines that are not blank, those beyond the most together."""
    raw, lines = text.split("\n"), []
    while raw:
        line = raw.pop(0)
        if len(lines) == most - 1:
            line = "\n".join([line, *raw])
            raw = []
        if line.strip():
            lines.append(line.strip())
    return lines or [""]


def criteria_of(table: Table, step: str) -> list[str]:
    parents, fine = table.selection(step)
    return [name for name in NAMES if name in parents or (fine and name.split("/")[0] in parents)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def slow_score(table: Table, text: str, most: int, how: str) -> float:
    scores = []
    for line in lines_of(text, most):
        step = line or "(nothing)"
        scores.append((mean([table.score(step, name) for name in criteria_of(table, step)]) - 1) / 4)
    return {"mean": mean(scores), "min": min(scores), "last": scores[-1]}[how]


def slow_vectors(table: Table, texts: list[str], most: int) -> list[list[float]]:
    """By every criterion that was selected for any step of any text."""
    steps = [[line or "(nothing)" for line in lines_of(text, most)] for text in texts]
    names = [n for n in NAMES if any(n in criteria_of(table, step) for some in steps for step in some)]
    return [[mean([table.score(step, name) for step in some]) for name in names] for some in steps]


def slow_front(vectors: list[list[float]], n: int) -> int:
    """The length of the longest chain of vectors, each of which dominates the next, down to one."""
    above = [
        m
        for m in range(len(vectors))
        if all(a >= b for a, b in zip(vectors[m], vectors[n], strict=True)) and vectors[m] != vectors[n]
    ]
    return 1 + max((slow_front(vectors, m) for m in above), default=-1)


TEXTS = ["one", "one\ntwo", "", "\n\n three \n\nfour\nfive\n\n six\nseven", "two\none", "one\ntwo\nthree"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("most", "how"), [(1, "mean"), (3, "mean"), (9, "min"), (3, "last")])
def test_scores_and_comparisons_are_those_of_the_rule(tree: Path, seed: int, most: int, how: str) -> None:
    table, reward = Table(seed), rubric(tree, judge(seed), most_steps=most, join=how)
    some = [candidate(text) for text in TEXTS]
    assert reward.score(some).values == pytest.approx([slow_score(table, text, most, how) for text in TEXTS])
    vectors = slow_vectors(table, TEXTS, most)
    ordering = [(mean(vector) - 1) / 4 - slow_front(vectors, n) for n, vector in enumerate(vectors)]
    assert reward.compare(some).values == pytest.approx(ordering)
    (record,) = reward.records(some[1:2])
    assert [p["front"] for p in record["criteria"]["particles"]] == [slow_front(vectors, n) for n in range(len(TEXTS))]
    assert [list(p["scores"].values()) for p in record["criteria"]["particles"]] == vectors
    assert record["criteria"]["non_dominated"] == mean([slow_front(vectors, n) == 0 for n in range(len(TEXTS))])


def test_fronts_by_hand() -> None:
    """The specification's: (3,3), (4,2), (2,2), (3,3)."""
    assert fronts([(3, 3), (4, 2), (2, 2), (3, 3)]) == [0, 0, 1, 0]
    assert not dominates((3, 3), (3, 3))
    assert fronts([(1,), (2,), (3,)]) == [2, 1, 0]
    assert fronts([]) == []
    for vectors in itertools.product(itertools.product((1, 2, 3), repeat=2), repeat=3):
        assert fronts(vectors) == fronts([(*vector, 4) for vector in vectors])  # all agree on a further criterion
        best = max(range(3), key=lambda n: sum(vectors[n]))
        assert fronts(vectors)[best] == 0  # the highest mean is never dominated


# --- traps ------------------------------------------------------------------------------------------------------------


def test_a_call_is_about_one_completion_and_criteria_are_shuffled(tree: Path) -> None:
    """Judges favor what stands first: the order depends on the step alone, and differs between steps."""
    one = judge()
    reward = rubric(tree, one)
    together = reward.score([candidate(text) for text in TEXTS])
    assert all(len(re.findall(r"^\[Step\]$", prompt, re.MULTILINE)) == 1 for prompt in one.prompts)
    orders = {tuple(re.findall(r"^\d+\. (\w+):", p, re.MULTILINE)) for p in one.prompts if '"fine"' in p}
    assert len(orders) > 2
    for n, text in enumerate(TEXTS):
        alone = judge()
        assert rubric(tree, alone).score([candidate(text)]).values == [together.values[n]]
        assert set(alone.prompts) <= set(one.prompts)
    criteria = [Criterion(name, "x") for name in "abcdef"]
    assert shuffled(criteria, "t") == shuffled(criteria[::-1], "t") != shuffled(criteria, "u")


def test_a_request_shows_the_answer_so_far_and_scores_of_the_last_steps(tree: Path) -> None:
    one = judge()
    rubric(tree, one, window=2).score([candidate("a1\nb2\nc3\nd4")])
    last = sections_of(one.prompts[-1])
    assert last["Question"] == "What is 1 + 1?"
    assert last["Answer so far"] == "a1\nb2\nc3"
    assert last["Step"] == "d4"
    shown = last["Last steps with their scores, 1 to 5"].split("\n")
    assert shown[::2] == ["b2", "c3"]
    for step, words in zip(shown[::2], shown[1::2], strict=True):
        scores = re.findall(r"([\w/]+) (\d)", words)
        assert {name: int(n) for name, n in scores} == {
            n: one.table.score(step, n) for n in criteria_of(one.table, step)
        }
    first = sections_of(one.prompts[0])
    assert (first["Answer so far"], first["Last steps with their scores, 1 to 5"]) == ("(nothing)", "(none)")


def test_a_conversation_and_a_prefix_are_part_of_it(tree: Path) -> None:
    one = judge()
    example = Example("e", "and now?", "", history=(("hi", "hello"),), prefix="so: ")
    rubric(tree, one).score([Candidate(example, "yes\nno", 1.0, -1)])
    sections = sections_of(one.prompts[0])
    assert sections["Question"].split("\n") == ["(user) hi", "(assistant) hello", "(user) and now?"]
    assert sections["Step"] == "so: yes"


def test_a_comparison_asks_only_for_criteria_that_a_completion_lacks(tree: Path) -> None:
    one = judge(3)
    reward, some = rubric(tree, one), [candidate(text) for text in ("one", "two", "three")]
    reward.score(some)
    before = len(one.prompts)
    compared = reward.compare(some)
    union = {name for text in ("one", "two", "three") for name in criteria_of(one.table, text)}
    lacking = [union - set(criteria_of(one.table, text)) for text in ("one", "two", "three")]
    more = [set(re.findall(r"^\d+\. ([\w/]+):", p, re.MULTILINE)) for p in one.prompts[before:]]
    assert more == [names for names in lacking if names]
    assert [bool(tokens) for tokens in compared.tokens] == [bool(names) for names in lacking]
    assert reward.compare(some).values == compared.values
    assert len(one.prompts) == before + len(more)


def test_no_prompt_is_sent_twice_and_a_row_pays_for_what_changed(tree: Path) -> None:
    one = judge()
    reward = rubric(tree, one)
    first = reward.score([candidate("one\ntwo", slot=0), candidate("one\ntwo", slot=1)])
    assert len(one.prompts) == 4
    assert first.tokens == [sum(map(len, one.prompts))] * 2  # each as if alone
    again = reward.score([candidate("one\nthree", slot=0), candidate("one\ntwo", slot=1)])
    assert len(one.prompts) == 6
    assert again.tokens == [sum(map(len, one.prompts[4:])), 0]
    reward.forget([0])
    assert reward.score([candidate("one\nthree", slot=0)]).tokens == [
        sum(map(len, [*one.prompts[:2], *one.prompts[4:]]))
    ]
    assert len(one.prompts) == 6


SELECTIONS = [
    "", "none", "{}", '{"criteria": [1]}', '{"criteria": [], "fine": true}', '{"criteria": [9], "fine": true}',
    '{"criteria": [1, 1], "fine": true}', '{"criteria": ["1"], "fine": true}', '{"criteria": [true], "fine": true}',
    '{"criteria": [1], "fine": "yes"}', '{"criteria": [1, 2, 3], "fine": false}', '{"criteria": {"1": 1}, "fine": true}',
]  # fmt: skip
SCORES = ["", "all 5", "{}", '{"1": 0}', '{"1": 6}', '{"1": 3.5}', '{"1": "4"}', '{"1": true}', '{"1": null}', "[4]"]


@pytest.mark.parametrize(
    ("about", "reply"), [(True, r) for r in SELECTIONS] + [(False, r) for r in SCORES], ids=lambda value: str(value)
)
def test_a_reply_that_cannot_be_read_fails_the_example(tree: Path, about: bool, reply: str) -> None:
    """Never a default."""
    one = judge(instead=lambda prompt: (reply or " ") if ('"fine"' in prompt) is about else None)
    words = "select 1 to 2 of the criteria" if about else "give each criterion a whole number from 1 to 5"
    with pytest.raises(RunError, match=f"The judge's reply about example e does not {words}: "):
        rubric(tree, one, most_selected=2 if about else 4).score([candidate("one")])


def test_the_last_object_of_a_reply_counts() -> None:
    assert last_object('say {"a": 1} or {x} or {"b": {"c": 2}} so') == ({"b": {"c": 2}}, 'say {"a": 1} or {x} or')
    assert last_object("{ {") is None


@pytest.mark.parametrize(
    ("prefixes", "most", "pieces"),
    [
        (["a", "ab", "ab c"], 4, ["a", "b", "c"]),
        (["a", "ab", "ab c"], 2, ["a", "b c"]),
        (["a", "ab", "ab c"], 1, ["ab c"]),
        (["", "a", "a ", "a"], 4, ["a"]),
        (["caf\ufffd", "café!"], 4, ["caf\ufffd", "é!"]),
        ([""], 4, [""]),
    ],
)
def test_steps_are_what_each_prefix_adds(prefixes: list[str], most: int, pieces: list[str]) -> None:
    assert split(prefixes, most) == pieces


def test_blocks_can_be_steps(tree: Path) -> None:
    one = judge()
    reward = rubric(tree, one, unit="block")
    assert not reward.stateless
    reward.score([candidate("ab cd", blocks=("ab", "ab cd", "ab cd"))])
    assert [sections_of(p)["Step"] for p in one.prompts[::2]] == ["ab", "cd"]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_tree_has_the_same_hash_in_any_form(tree: Path, tmp_path: Path) -> None:
    parents, digest = read_tree(str(tree), "reward.tree")
    assert [name for parent in parents for name in (parent.name, *(c.name for c in parent.children))] == NAMES
    (tmp_path / "tree.json").write_text(json.dumps(dict(reversed(TREE.items()))))
    assert read_tree(str(tmp_path / "tree.json"), "reward.tree")[1] == digest
    (tmp_path / "tree.json").write_text(json.dumps(TREE | {"Useful": "it helps"}))
    assert read_tree(str(tmp_path / "tree.json"), "reward.tree")[1] != digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds nothing"),
        ("[]", "holds nothing"),
        ("[a]", "holds no names"),
        ("a: [", "is neither YAML nor JSON"),
        ("a: {children: {b: c}}", "which a is not"),
        ("a: {description: b, parents: c}", "which a is not"),
        ("a: {description: b, children: [c]}", "which a is not"),
        ("a: {description: b, children: {c: {description: d}}}", "which a is not"),
        ("a: 3", "which a is not"),
        ("a: ''", "which a is not"),
        ("1: b", "which 1 is not"),
        ("a: {description: b, children: {c: d}}\na/c: e", "two criteria of the same name: a/c"),
    ],
)
def test_a_tree_that_is_none_is_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "tree.yaml").write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_tree(str(tmp_path / "tree.yaml"), "reward.tree")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_tree(str(tmp_path), "reward.tree")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge": RewardJudge(name="verifier", reward=None)}, "reward.judge=verifier does not answer in words"),
        ({"score_template": "what"}, ""),
        ({"score_template": "{wrong}"}, "reward.score_template cannot be filled in: 'wrong' is not a name"),
        ({"select_template": "{0}"}, "reward.select_template cannot be filled in"),
        ({"select_template": "{"}, "reward.select_template cannot be filled in"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(settings: dict[str, Any], words: str) -> None:
    assert [words in sentence for sentence in replace(defaults(), **settings).mistakes("reward")] == [True] * bool(
        words
    )


def test_a_judge_does_not_ask_a_judge(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"judge\.reward=rubric asks a judge itself"):
        compose("judge=reward", "reward@judge.reward=rubric", f"judge.reward.tree={tree}")


# --- a judge on this machine ------------------------------------------------------------------------------------------


def test_a_local_judge_writes_the_likeliest_tokens() -> None:
    """Rows of different lengths together, as each alone without a cache; up to the end token."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=11, eos_token_id=3, initializer_range=0.3, **sizes)).eval()
    model.generation_config.update(do_sample=True, temperature=0.7, repetition_penalty=3.0)  # not for a judge
    causal = Causal(model, word_tokenizer([f"w{n}" for n in range(11)]), torch.device("cpu"))
    rows = [[n % 11 for n in range(first, first + length)] for first, length in ((1, 3), (4, 7), (9, 1), (2, 5))]
    expected = []
    for row in rows:
        ids = list(row)
        while len(ids) < len(row) + 6:
            with torch.inference_mode():
                token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == 3:
                break
            ids.append(token)
        expected.append(ids[len(row) :])
    assert causal.continuations(rows, 6) == expected
    assert len({len(written) for written in expected}) > 1


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    server.reply = lambda text, n: said(scripted(Table(1), text))
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def options(small: list[str], tree: Path, endpoint: Endpoint, tmp_path: Path) -> list[str]:
    small = [option for option in small if not option.startswith(("reward=", "benchmark.limit"))]
    return [
        *small, "benchmark.limit=2", "reward=rubric", f"reward.tree={tree}", "reward.unit=block", "sampler.block_length=18",
        f"reward.judge.base_url={endpoint.url}", f"reward.judge.cache={tmp_path / 'cache'}", "reward.judge.retries=0",
    ]  # fmt: skip


PRICES = ["reward.judge.dollars_per_million_in=1", "reward.judge.dollars_per_million_out=1"]


def test_a_search_chooses_by_criteria(rws, options: list[str], endpoint: Endpoint, tmp_path: Path) -> None:
    options += ["sampler=best_of_n", "sampler.search.particles=3", "benchmark.limit=1"]
    result = rws("run", *options)
    assert result.exit_code == 0, result.output
    assert "judge requests, at most: " in result.output  # what it may take comes first
    run = tmp_path / "outputs/sudoku/small-best_of_n/v001"
    table, bound = Table(1), plan(compose(*options))["judge requests, at most"]
    assert len(set(endpoint.asked)) == len(endpoint.asked) <= bound
    for sample in samples_of(run):
        criteria = sample["criteria"]
        assert [len(p["scores"]) for p in criteria["particles"]] == [len(criteria["particles"][0]["scores"])] * 3
        vectors = [list(p["scores"].values()) for p in criteria["particles"]]
        assert [p["front"] for p in criteria["particles"]] == [slow_front(vectors, n) for n in range(3)]
        best = max(range(3), key=lambda n: mean(vectors[n]))
        assert sample["reward"] == pytest.approx(sample["particles"][best])
        assert all(0 <= score <= 1 for score in sample["particles"])
        for step in criteria["steps"]:
            assert step["scores"] == {n: table.score(step["text"], n) for n in criteria_of(table, step["text"])}
            assert step["analysis"] == "It is about {sums}."
        means = [(mean(list(step["scores"].values())) - 1) / 4 for step in criteria["steps"]]
        assert sample["reward"] == pytest.approx(mean(means))
        assert sample["cost"]["reward_tokens"] % 60 == 0
        assert sample["cost"]["reward_tokens"] > 0
    manifest = json.loads((run / "manifest.json").read_text())
    _, digest = read_tree(str(tmp_path / "tree.yaml"), "reward.tree")
    assert manifest["sources"]["reward.tree"] == {"sha256": digest, "criteria": 6}


@pytest.mark.slow
def test_a_run_from_the_cache_is_the_same_costs_too(
    rws, options: list[str], endpoint: Endpoint, tmp_path: Path
) -> None:
    options += ["sampler=best_of_n", "sampler.search.particles=3"]
    assert rws("run", *options).exit_code == 0
    before = list(endpoint.asked)
    assert rws("run", *options, "runtime.batch_size=1").exit_code == 0
    assert endpoint.asked == before
    first, again = (samples_of(tmp_path / f"outputs/sudoku/small-best_of_n/v00{n}") for n in (1, 2))
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["rws", "fk", "r3", "particle_gibbs"])
def test_what_a_run_asks_is_within_its_plan(
    rws, options: list[str], endpoint: Endpoint, tmp_path: Path, sampler: str
) -> None:
    options += [f"sampler={sampler}", "reward.most_steps=2", "sampler.block_length=12"]
    assert rws("run", *options).exit_code == 0
    assert 0 < len(endpoint.asked) == len(set(endpoint.asked)) <= plan(compose(*options))["judge requests, at most"]
    assert all(s["criteria"]["steps"] for s in samples_of(tmp_path / f"outputs/sudoku/small-{sampler}/v001"))


def test_the_cost_comes_first(rws, options: list[str], endpoint: Endpoint, tmp_path: Path) -> None:
    shown = " ".join(rws("run", *options, "sampler=best_of_n", "--dry-run").output.split())
    # 2 examples x (4 particles + 1 text for the record) x 4 steps x 2 requests, and a third for each that is compared
    assert f"judge requests, at most │ {2 * (5 * 2 + 4) * 4}" in shown
    assert "price not set (reward.judge.dollars_per_million_in, …_out)" in shown
    dear = [*options, *PRICES, "reward.judge.max_dollars=0.01", "sampler=best_of_n"]
    result = rws("run", *dear)
    assert result.exit_code == 2
    assert re.search(r"Judging may cost \$0\.\d+, more than reward\.judge\.max_dollars=0\.01", result.output)
    assert not endpoint.asked
    assert not (tmp_path / "outputs").exists()


def test_spending_ends_where_the_user_says(endpoint: Endpoint, tmp_path: Path) -> None:
    """However the reward is used: here twice, each time for less than all that is allowed."""
    prices = [f"judge.{price.removeprefix('reward.judge.')}" for price in PRICES]
    settings = [f"judge.base_url={endpoint.url}", f"judge.cache={tmp_path}", "judge.max_dollars=0.0006", *prices]
    made = compose("judge=openai", *settings).judge.loaded(None, "reward.judge")
    prompts = [f'[Step]\n{n}\n\n[Criteria]\n1. Clear: x\n\n"fine"' for n in range(3)]
    assert [reply.tokens for reply in made.reply(prompts[:1])] == [60]
    assert [reply.tokens for reply in made.reply(prompts[:1])] == [60]  # what it took once, from the cache
    made.tokens["out"] += 100
    with pytest.raises(UsageError, match=r"more than reward\.judge\.max_dollars=0\.0006"):
        made.reply(prompts[1:2])
    assert len(endpoint.asked) == 1
    made.client.close()


@pytest.mark.slow
def test_a_reply_that_cannot_be_read_fails_its_example_alone(
    rws, options: list[str], endpoint: Endpoint, tmp_path: Path
) -> None:
    first: list[str] = []

    def reply(text: str, n: int) -> tuple[int, Any]:
        question = text.split("[Answer so far]")[0]
        first.append(question)
        return said("no idea" if question == first[0] else scripted(Table(1), text))

    endpoint.reply = reply
    result = rws("run", *options, "sampler=best_of_n", "sampler.search.particles=2", "reward.judge.parallel=1")
    assert result.exit_code == 1
    run = tmp_path / "outputs/sudoku/small-best_of_n/v001"
    assert len(samples_of(run)) == 1
    (failure,) = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert 'does not select 1 to 4 of the criteria: "no idea".' in failure["error"]


@pytest.mark.slow
def test_a_changed_tree_cannot_continue_a_run(rws, options: list[str], endpoint: Endpoint, tmp_path: Path) -> None:
    settings = [*options, "sampler=best_of_n", "sampler.search.particles=2"]
    assert rws("run", *settings).exit_code == 0
    run = tmp_path / "outputs/sudoku/small-best_of_n/v001"
    (run / "samples.jsonl").write_text("")
    (run / "metrics.json").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    (tmp_path / "tree.yaml").write_text("Other: something else")
    result = rws("run", "--resume", str(run), f"reward.judge.base_url={endpoint.url}")
    assert result.exit_code == 2
    assert "the reward.tree changed since it was started" in result.output


@pytest.mark.slow
def test_guidance_can_use_it_and_calibration_belongs_to_the_tree(rws, options: list[str], tmp_path: Path) -> None:
    settings = [*options, "sampler=rws", "reward.most_steps=1", "benchmark.limit=1", "sampler.tokens_per_step=12"]
    result = rws("calibrate", *settings)
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "outputs/calibration/rubric").glob("*/v001/normalization.json")
    facts = json.loads(file.read_text())["calibrated"]["reward"]
    assert facts["judge"]["model"] == "gpt-4o"
    assert "max_dollars" not in facts["judge"]
    before = facts["content"]
    result = rws("run", *settings, f"reward.statistics={file}")
    assert result.exit_code == 0, result.output
    (tmp_path / "tree.yaml").write_text(yaml.safe_dump(TREE | {"Useful": "it helps"}))
    assert rws("calibrate", *settings).exit_code == 0
    assert (
        json.loads((file.parent.parent / "v002/normalization.json").read_text())["calibrated"]["reward"]["content"]
        != before
    )
