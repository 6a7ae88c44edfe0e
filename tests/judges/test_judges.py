"""Judges: both orders are judged, verdicts are saved and reused; an endpoint replies well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_endpoint import Endpoint, said
from support import save_reward, small_run, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from rws_cli.analysis.verdicts import identity_of, judge_labels
from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.cli import app
from rws_cli.config.composing import compose
from rws_cli.errors import RunError, UsageError
from rws_cli.judges.base import Pair, render
from rws_cli.judges.endpoint import EndpointJudge, read_verdict
from rws_cli.judges.reward import RewardJudge
from rws_cli.rewards.base import Candidate, Reward, Scores
from rws_cli.runs.records import read_lines, read_samples


def pair(a: str, b: str, name: str = "e", **example: Any) -> Pair:
    return Pair(Example(name, "what?", example.pop("reference", ""), **example), (a, b), ((), ()))


# --- an endpoint on this machine ------------------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def judge(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., EndpointJudge]]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    made: list[EndpointJudge] = []

    def make(*overrides: str) -> EndpointJudge:
        options = [f"judge.base_url={endpoint.url}", f"judge.cache={tmp_path / 'cache'}", "judge.retries=1"]
        found = compose("judge=openai", *options, *overrides).judge.loaded(Sudoku(limit=1))
        assert isinstance(found, EndpointJudge)
        made.append(found)
        return found

    yield make
    for one in made:
        one.client.close()


CONTESTS = [pair(f"left {n}", f"right {n}") for n in range(4)]


def test_a_good_endpoint(endpoint: Endpoint, judge: Callable[..., EndpointJudge], capsys) -> None:
    endpoint.reply = lambda text, n: said(f"I think… [[A]] no: [[{'B' if 'left 1' in text else 'C'}]]")
    found = judge("judge.dollars_per_million_in=2", "judge.dollars_per_million_out=10")
    verdicts = list(found.ask(CONTESTS))
    assert [v.first for v in verdicts] == [0.5, 0.0, 0.5, 0.5]
    assert "[[A]] no" in verdicts[0].reply
    assert endpoint.keys == {"Bearer secret"}
    assert "right 2" in next(text for text in endpoint.asked if "left 2" in text)
    assert found.tokens == {"in": 200, "out": 40}
    assert found.dollars(200, 40) == pytest.approx(0.0008)
    shown = capsys.readouterr().err
    assert "4 requests, 0 in the cache" in shown
    assert "2,048 out; at most $0.02" in shown


def test_what_was_asked_is_not_paid_again(endpoint: Endpoint, judge: Callable[..., EndpointJudge], capsys) -> None:
    first = list(judge().ask(CONTESTS[:2]))
    again = judge()
    assert list(again.ask(CONTESTS[:3]))[:2] == first
    assert len(endpoint.asked) == 3
    assert again.tokens["in"] == 50
    assert "1 requests, 2 in the cache" in capsys.readouterr().err
    list(judge("judge.model=other").ask(CONTESTS[:1]))
    assert len(endpoint.asked) == 4


def test_a_pair_of_equal_answers_is_one_request(
    endpoint: Endpoint, judge: Callable[..., EndpointJudge], capsys
) -> None:
    """A pair and its swap are then the same question; several sent at once by an endpoint that answers at once."""
    pairs = [pair("same", "same", str(n)) for n in range(4)] + [pair("same", "other")]
    found = judge()
    verdicts = list(found.ask([c for pair in pairs for c in (pair, pair.swapped())]))
    assert [v.first for v in verdicts] == [1.0] * 10
    assert len(endpoint.asked) == len(set(endpoint.asked)) == 3
    assert found.tokens == {"in": 150, "out": 30}
    assert "3 requests, 0 in the cache" in capsys.readouterr().err


def test_two_judges_at_once_pay_once(endpoint: Endpoint, judge: Callable[..., EndpointJudge], tmp_path: Path) -> None:
    endpoint.reply = lambda text, n: (time.sleep(0.1), said("[[A]]"))[1]
    both = [judge(), judge()]
    replies: list[list[Any]] = []
    threads = [threading.Thread(target=lambda one=one: replies.append(list(one.ask(CONTESTS[:2])))) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies[0] == replies[1]
    assert len(endpoint.asked) == 2
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".json", ".json"]


def test_a_kept_reply_that_cannot_be_read_is_asked_for_again(
    endpoint: Endpoint, judge: Callable[..., EndpointJudge], tmp_path: Path
) -> None:
    first = list(judge().ask(CONTESTS[:1]))
    (kept,) = (tmp_path / "cache").glob("*.json")
    for broken in (b"{", b"[]", b'{"reply": 3}', b"\xff"):
        kept.write_bytes(broken)
        assert list(judge().ask(CONTESTS[:1])) == first
    assert len(endpoint.asked) == 5


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_asked(
    endpoint: Endpoint, judge: Callable[..., EndpointJudge], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="set judge.cache="):
        list(judge(f"judge.cache={tmp_path / 'file'}").ask(CONTESTS))
    assert endpoint.asked == []


def test_too_dear_is_refused_before_anything_is_asked(endpoint: Endpoint, judge: Callable[..., EndpointJudge]) -> None:
    prices = ("judge.dollars_per_million_in=2", "judge.dollars_per_million_out=1e5")
    with pytest.raises(UsageError, match=r"may cost \$204\.80, more than judge\.max_dollars=10"):
        list(judge(*prices).ask(CONTESTS))
    assert endpoint.asked == []


@pytest.mark.parametrize(
    "reply", ["A", "", "[[D]]", "[A]", "the better one is [[ A ]]"], ids=["bare", "empty", "D", "single", "spaces"]
)
def test_a_reply_without_a_verdict_is_unreadable_not_a_guess(
    endpoint: Endpoint, judge: Callable[..., EndpointJudge], reply: str
) -> None:
    assert read_verdict(reply) is None
    endpoint.reply = lambda text, n: said(reply, usage=False)
    (verdict,) = judge().ask(CONTESTS[:1])
    assert (verdict.first, verdict.reply) == (None, reply)


@pytest.mark.parametrize("bad", [(500, {}), (429, {}), (503, b"busy")], ids=["500", "429", "503"])
def test_passing_errors_are_tried_again(endpoint: Endpoint, judge: Callable[..., EndpointJudge], bad) -> None:
    endpoint.reply = lambda text, n: bad if n == 1 else said("[[B]]")
    (verdict,) = judge().ask(CONTESTS[:1])
    assert verdict.first == 0.0
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ((500, {}), RunError, "gave up after 1 retries"),
        ((400, {"error": {"message": "no such model"}}), RunError, "no such model"),
        ((401, {}), UsageError, "check the key in OPENAI_API_KEY"),
        ((200, {"choices": []}), RunError, "gave up"),
        ((200, b"{not json"), RunError, "gave up"),
        ((200, {"choices": [{"message": {"content": ["A"]}}]}), RunError, "gave up"),
        (
            (200, {"choices": [{"message": {"content": "[[A]]"}}], "usage": {"prompt_tokens": "many"}}),
            RunError,
            "gave up",
        ),
    ],
    ids=["always 500", "bad request", "bad key", "no choices", "no JSON", "no text", "no numbers"],
)
def test_lasting_errors_are_one_sentence(endpoint, judge, reply, error, words: str) -> None:
    endpoint.reply = lambda text, n: reply
    with pytest.raises(error, match=words):
        list(judge().ask(CONTESTS[:1]))


def test_a_reply_with_half_a_character_is_kept(endpoint: Endpoint, judge: Callable[..., EndpointJudge]) -> None:
    endpoint.reply = lambda text, n: said("\ud800 [[B]]")
    assert [v.reply for v in judge().ask(CONTESTS[:1])] == ["? [[B]]"]
    assert [v.first for v in judge().ask(CONTESTS[:1])] == [0.0]


def test_a_slow_endpoint_is_given_up(endpoint: Endpoint, judge: Callable[..., EndpointJudge]) -> None:
    endpoint.reply = lambda text, n: (time.sleep(1.5), said("[[A]]"))[1]
    with pytest.raises(RunError, match="gave up"):
        list(judge("judge.timeout_seconds=0.2", "judge.retries=0").ask(CONTESTS[:1]))


def test_requests_keep_their_distance(endpoint: Endpoint, judge: Callable[..., EndpointJudge]) -> None:
    begun = time.monotonic()
    list(judge("judge.requests_per_minute=600").ask(CONTESTS))
    assert len(endpoint.times) == 4
    assert all(arrived - begun >= 0.1 * n for n, arrived in enumerate(sorted(endpoint.times)))


def test_no_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="set the environment variable OPENAI_API_KEY"):
        compose("judge=openai").judge.loaded(Sudoku(limit=1))


# --- the other judges -----------------------------------------------------------------------------------------------


def test_the_verifier_judges_by_partial_credit() -> None:
    benchmark = Sudoku(limit=1)
    example = benchmark.examples()[0]
    judge = compose("judge=verifier", "judge.margin=0.02").judge.loaded(benchmark)
    right = example.reference
    one_wrong = ("1" if right[0] != "1" else "2") + right[1:]
    pairs = [Pair(example, pair, ((), ())) for pair in ((right, one_wrong), ("", one_wrong), (right, right))]
    assert [v.first for v in judge.ask(pairs)] == [1.0, 0.0, 0.5]
    assert [v.first for v in judge.ask([c.swapped() for c in pairs])] == [0.0, 1.0, 0.5]


def test_scores_that_are_no_numbers_are_no_verdicts() -> None:
    class Broken(Reward):
        def score(self, candidates: list[Candidate]) -> Scores:
            return Scores([float("nan")] * len(candidates), [0] * len(candidates))

    with pytest.raises(RunError, match="returned nan for example e"):
        list(RewardJudge(name="j", reward=Broken(name="b")).loaded(None).ask(CONTESTS[:1]))


def test_a_local_judge_compares_letters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = ["<unk>", "<s>", "A", "B", "what?", "one", "two", "Better", "answer:"]
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).eval()
    model.save_pretrained(tmp_path)
    word_tokenizer(words, bos_token="<s>", eos_token="<s>").save_pretrained(tmp_path)
    template = "judge.template='{question} {answer_a} {answer_b}'"
    judge = compose("judge=local", f"judge.path={tmp_path}", template).judge.loaded(Sudoku(limit=1))
    pairs = [pair("one", "two"), pair("two one two", "")]
    for c, verdict in zip(pairs, judge.ask(pairs), strict=True):
        text = f"what? {c.completions[0]} {c.completions[1]} Better answer:"
        ids = torch.tensor([[words.index(word) for word in text.split()]])
        with torch.inference_mode():
            a, b = model(ids).logits[0, -1, 2:4].tolist()
        assert verdict.first == float(a > b)
        assert float(verdict.reply.split("= ")[1]) == pytest.approx(a - b, abs=1e-3)


def test_a_local_judge_answers_in_words(tmp_path: Path) -> None:
    torch.manual_seed(1)
    words = ["<unk>", "<s>", "good", "bad", "what?", "one", "two"]
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(words), max_position_embeddings=12, initializer_range=0.5, eos_token_id=1, **sizes
    )
    LlamaForCausalLM(config).eval().save_pretrained(tmp_path)
    word_tokenizer(words, bos_token="<s>", eos_token="<s>").save_pretrained(tmp_path)
    settings = [f"judge.path={tmp_path}", "judge.max_tokens=5", "judge.batch_size=2"]
    judge = compose("judge=local", *settings).judge.loaded(None, "reward.judge")
    prompts = ["what? one two", "one", "two two one what? what? what?"]
    together = judge.reply(prompts)
    assert [judge.reply([prompt])[0] for prompt in prompts] == together
    for prompt, reply in zip(prompts, together, strict=True):
        assert reply.text.split() == [word for word in reply.text.split() if word in words]
        assert reply.tokens == len(prompt.split()) + len(reply.text.split())
    assert list(judge.source) == ["reward.judge"]
    with pytest.raises(RunError, match="A prompt has 8 tokens and its reply up to 5 more, .* context of 12"):
        judge.reply(["one " * 8])


def test_a_conversation_is_shown_with_its_own_turns() -> None:
    c = Pair(Example("e", "and now?", ""), ("x", "y"), ((("hi", "first"),), (("hi", "second"),)))
    text = render("{question}|{answer_a}|{answer_b}", c).split("|")
    assert text[0] == "and now?"
    assert "first" in text[1]
    assert text[1].endswith("\nx")
    assert "second" in text[2]
    with pytest.raises(UsageError, match="cannot be filled in"):
        render("{answer}", c)


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(llada_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three samplers, made once."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["run", "-m", *small_run(llada_folder), "sampler=confidence,random,left_to_right", "reward=none"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder / "outputs"


@pytest.fixture
def runs(rws, swept: Path, tmp_path: Path) -> list[Path]:
    shutil.copytree(swept, tmp_path / "outputs", symlinks=True)
    return [tmp_path / "outputs" / "multirun" / "v001" / str(n) for n in range(3)]


def verdicts_of(run: Path) -> list[dict[str, Any]]:
    return read_lines(next(run.glob("judgements/*/verdicts.jsonl")))


def test_a_sweep_is_judged_against_its_first_run(rws, runs: list[Path], endpoint: Endpoint, tmp_path: Path) -> None:
    """The endpoint prefers the longer answer, and the first of two that are equally long."""

    def longer(text: str, _: int) -> tuple[int, Any]:
        a, b = text.split("[Answer A]\n")[1].split("\n\nExplain")[0].split("\n\n[Answer B]\n")
        return said("[[A]]" if len(a) >= len(b) else "[[B]]")

    endpoint.reply = longer
    options = ["judge=openai", f"judge.base_url={endpoint.url}", f"judge.cache={tmp_path / 'cache'}"]
    result = rws("judge", str(runs[0].parent), *options)
    assert result.exit_code == 0, result.output
    assert not (runs[0] / "judgements").exists()
    base, other = read_samples(runs[0]), read_samples(runs[1])
    lengths = [(len(a["completion"]), len(b["completion"])) for a, b in zip(base, other, strict=True)]
    wins, losses = sum(b > a for a, b in lengths), sum(b < a for a, b in lengths)
    row = next(line for line in result.output.splitlines() if line.strip().startswith("random") and "openai" in line)
    ties = len(lengths) - wins - losses
    assert row.split()[-5:] == [str(n) for n in (wins, ties, losses, ties, 0)]
    assert len(verdicts_of(runs[1])) == 2 * len(base)
    assert rws("compare", *map(str, runs)).output == result.output[result.output.index(f"{len(base)} examples") :]
    stored = json.loads(next(runs[1].glob("judgements/*/judge.json")).read_text())
    assert stored["judge"]["model"] == "gpt-4o"
    assert "secret" not in json.dumps(stored)


def test_verdicts_survive_a_judge_that_gives_up(rws, runs: list[Path], endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda text, n: said("[[A]]") if len(endpoint.asked) <= 3 else (400, {})
    options = [f"judge.base_url={endpoint.url}", f"judge.cache={tmp_path / 'cache'}", "judge.parallel=1"]
    result = rws("judge", *map(str, runs[:2]), "judge=openai", *options)
    assert result.exit_code == 1
    assert "run the command again to continue" in result.output
    kept = verdicts_of(runs[1])
    assert len(kept) == 3
    endpoint.reply = lambda text, n: said("[[B]]")
    assert rws("judge", *map(str, runs[:2]), "judge=openai", *options).exit_code == 0
    assert verdicts_of(runs[1])[:3] == kept
    assert len(verdicts_of(runs[1])) == 2 * len(read_samples(runs[0]))


def rates(output: str) -> dict[str, str]:
    """By judge, as its column shows it, the counts of won, tied and lost."""
    lines = output[output.index("win rate") :].splitlines()
    found = [re.match(r"\s*random\s+(verifier.*?)\s{2,}.*\]\s+(\d+\s+\d+\s+\d+)", line) for line in lines]
    return {match[1]: " ".join(match[2].split()) for match in found if match}


def test_judges_of_one_name_are_told_apart(rws, runs: list[Path]) -> None:
    """The second judge calls everything a tie; which of the two folders sorts last does not matter."""
    judging = ("judge", *map(str, runs[:2]), "judge=verifier")
    alone = rates(rws(*judging).output)
    assert list(alone) == ["verifier"]
    both = rates(rws(*judging, "judge.margin=2").output)
    assert both == {"verifier (margin=0.0)": alone["verifier"], "verifier (margin=2.0)": "0 6 0"}
    other = next(
        folder for folder in (runs[1] / "judgements").iterdir() if "2.0" in (folder / "judge.json").read_text()
    )
    whole = (other / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (other / "verdicts.jsonl").write_text("".join(whole[:3]) + whole[3][:20])  # as a kill leaves it
    assert rates(rws("compare", *map(str, runs[:2])).output) == {
        "verifier (margin=0.0)": alone["verifier"],
        "verifier (margin=2.0), 1 of 6 judged": "0 1 0",
    }
    assert rates(rws(*judging, "judge.margin=2").output) == both  # continues after the broken line


def test_labels_of_judges_show_what_differs() -> None:
    common = {"name": "openai", "model": "a", "base_url": None, "template": "x" * 80}
    others = [common | {"model": "b"}, common | {"template": "y" * 80}, common | {"name": "local"}]
    labels = list(judge_labels([identity_of(judge, {}) for judge in (common, *others)]).values())
    assert labels[1].startswith("openai (model=b, template=#")
    assert labels[2].startswith("openai (model=a, template=#")
    assert labels[1].split("#")[1] == labels[0].split("#")[1] != labels[2].split("#")[1]
    assert labels[3] == "local"
    assert len(judge_labels([identity_of(common, {}), identity_of(common | {"batch_size": 3}, {})])) == 1
    weights = judge_labels([identity_of(common, {"judge": name}) for name in ("one", "two")])
    assert [label.startswith("openai (weights=") for label in weights.values()] == [True, True]


def test_a_judge_whose_weights_changed_under_its_path_is_another(rws, runs: list[Path], tmp_path: Path) -> None:
    judging = ("judge", *map(str, runs[:2]), "judge=reward", "reward@judge.reward=classifier")
    path = f"judge.reward.path={save_reward(tmp_path / 'reward')}"
    assert rws(*judging, path).exit_code == 0
    save_reward(tmp_path / "reward", seed=2)
    assert "reward (weights=#" in rws(*judging, path).output


def test_answers_that_changed_are_judged_again(rws, runs: list[Path]) -> None:
    judging = ("judge", *map(str, runs[:2]), "judge=verifier")
    assert rws(*judging).exit_code == 0
    before = verdicts_of(runs[1])
    assert rws(*judging).exit_code == 0
    assert verdicts_of(runs[1]) == before
    samples = read_samples(runs[1])
    samples[0]["completion"] = "changed"
    (runs[1] / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    assert rws(*judging).exit_code == 0
    assert [line["id"] for line in verdicts_of(runs[1])[len(before) :]] == [samples[0]["id"]] * 2


def test_a_sweep_can_name_its_judge(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", "-m", *small, "sampler=confidence,random", "judge=verifier", "seed=0,1")
    assert result.exit_code == 0, result.output
    assert "win rate" in result.output
    judged = sorted(path.parts[-4] for path in (tmp_path / "outputs").glob("multirun/v001/*/judgements/*/judge.json"))
    assert judged == ["2", "3"]  # each random run against the confidence run of its seed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["judge=verifier"], "at least two"),
        (["a", "b"], "does not exist"),
        (["{0}", "{1}"], "No judge is chosen"),
        (["{0}", "{1}", "seed=1"], "cannot be set when judging"),
        (["{0}", "{1}", "judge=vrifier"], "did you mean verifier"),
        (["{0}", "{1}", "judge=reward", "reward@judge.reward=none"], "has no scores"),
        (["{0}", "{1}", "judge=local", "judge.path=/nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(rws, runs: list[Path], arguments: list[str], words: str) -> None:
    result = rws("judge", *[argument.format(*runs) for argument in arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
