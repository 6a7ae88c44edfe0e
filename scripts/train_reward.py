"""Train the bundled reward model on the bundled model's own mistakes, and calibrate it.

    python scripts/train_reward.py         # about forty minutes on two cores; --help for the rest

It starts from the masked diffusion model's own layers, attends both ways (`is_causal` false in its config.json, which
transformers' native class honors) and has one label. Training has two parts. First it practises on true answers with
random numbers written over some results: a second head says of each token whether it is right (binary cross-entropy),
the model's old head what a wrong one should have been (cross-entropy). Then it ranks answers of all degrees of damage:
true answers partly hidden and filled by the model, as RWS shows them; the same with wrong numbers already committed;
and the model's own decodings in a few parallel steps. There the label is the benchmark's partial credit and the loss
Bradley-Terry over answers to one prompt, plus cross-entropy of the score's logistic with the label, plus the losses of
the first part. Without the practice it learned to check sudokus in minutes, and sums not at all. The two other heads
are dropped at the end.

Figures are measured on test problems that neither model has seen, statistics for normalization on training problems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiny_tokenizer
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from train_mdm import LENGTHS, MAKERS, WIDTHS, encode, make_optimizers, mask_some
from transformers import LlamaForSequenceClassification

from rws_cli.benchmarks.arithmetic import HIGH, LOW, Arithmetic
from rws_cli.benchmarks.base import Example, Generated
from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.models.base import Denoiser
from rws_cli.rewards.base import Candidate
from rws_cli.rewards.classifier import Classifier
from rws_cli.runs.calibrate import decode_recorded, statistics_of, unguided

BENCHMARKS: dict[str, type[Generated]] = {"sudoku": Sudoku, "arithmetic": Arithmetic}
VARIANTS = ("fill", "spoil", "decode", "decode")
"""How the answers to one prompt are damaged."""
MOST_STEPS = 8


def make_reward(denoiser: Denoiser, tokenizer: Any) -> LlamaForSequenceClassification:
    """The model's own layers, a head of one label, and an embedding for the padding token."""
    config = denoiser.model.config.__class__(**denoiser.model.config.to_dict())
    config.is_causal, config.num_labels, config.vocab_size = False, 1, len(tokenizer)
    config.architectures = ["LlamaForSequenceClassification"]
    config.pad_token_id, config.eos_token_id, config.bos_token_id = (
        tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id,
    )  # fmt: skip
    reward = LlamaForSequenceClassification._from_config(config, attn_implementation="eager")
    weights = denoiser.model.model.state_dict()
    rows = weights["embed_tokens.weight"]
    weights["embed_tokens.weight"] = torch.cat([rows, torch.zeros(len(tokenizer) - len(rows), rows.shape[1])])
    reward.model.load_state_dict(weights)
    return reward.requires_grad_(True).train()


def results(tokenizer: Any, task: str, ids: torch.Tensor) -> torch.Tensor:
    """Where true answers, somewhere in ids (B, T), have what partial credit counts: digits, or numbers behind a sign."""
    counted = [*"123456"] if task == "sudoku" else [" =", " ####"]
    found = torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(counted)))
    return found if task == "sudoku" else found.roll(1, 1)


def spoil(tokenizer: Any, task: str, truth: torch.Tensor, most: float, generator: torch.Generator) -> torch.Tensor:
    """True answers (B, G) with random numbers over a share of their results, the share uniform in 0 .. most by row."""
    numbers = [*"123456"] if task == "sudoku" else [f" {n}" for n in range(LOW, HIGH + 1)]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(numbers))
    share = torch.rand(len(truth), 1, generator=generator) * most
    spoiled = results(tokenizer, task, truth) & (torch.rand(truth.shape, generator=generator) < share)
    return torch.where(spoiled, ids[torch.randint(len(ids), truth.shape, generator=generator)], truth)


@torch.no_grad()
def damage(
    denoiser: Denoiser, task: str, ids: torch.Tensor, length: int, how: str, generator: torch.Generator
) -> torch.Tensor:
    """Damaged answers (B, G). fill: true ones partly hidden and filled; spoil: likewise, with wrong results among what
    is not hidden, and filled by sampling; decode: from nothing, in a few parallel steps of random order."""
    truth = ids[:, -length:]
    answers = spoil(denoiser.tokenizer, task, truth, 0.4, generator) if how == "spoil" else truth.clone()
    hidden = torch.ones_like(truth, dtype=torch.bool) if how == "decode" else mask_some(truth, generator)
    steps = int(torch.randint(1, MOST_STEPS + 1, (), generator=generator)) if how == "decode" else 1
    turn = torch.rand(truth.shape, generator=generator).argsort(1).argsort(1)
    for step in range(steps):
        tokens = torch.cat([ids[:, :-length], answers.masked_fill(hidden, denoiser.mask_id)], 1).clamp(min=0)
        attention = ids >= 0
        wanted = torch.zeros_like(attention)
        wanted[:, -length:] = True
        with torch.autocast("cpu", torch.bfloat16):
            logits = denoiser.logits(tokens, attention, wanted).view(*truth.shape, -1)
        logits[..., denoiser.mask_id] = -torch.inf
        if how == "spoil":
            logits -= torch.empty_like(logits).exponential_(generator=generator).log()
        now = hidden & (turn < -(-(step + 1) * length // steps))
        answers, hidden = torch.where(now, logits.argmax(-1), answers), hidden & ~now
    return answers


def render(tokenizer: Any, prompts: list[str], texts: list[str], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, width), padded right, of prompt and answer as the runner's classifier writes them; last positions."""
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}, {"role": "assistant", "content": t}], tokenize=False
        )
        for p, t in zip(prompts, texts, strict=True)
    ]
    rows = tokenizer(chats, add_special_tokens=False).input_ids
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    for n, row in enumerate(rows):
        row = row[:width]  # only the most garbled answers are longer
        ids[n, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([min(len(row), width) - 1 for row in rows])


FIGURES = ("pair_loss", "pair_accuracy", "level_loss", "token_loss", "token_accuracy")


class Lesson(torch.nn.Module):
    """The reward and the two heads it has while learning; a call gives the loss on damaged answers and FIGURES."""

    def __init__(self, denoiser: Denoiser, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.reward = make_reward(denoiser, tokenizer)
        self.token_head = torch.nn.Linear(self.reward.config.hidden_size, 1)
        self.old_head = torch.nn.Linear(self.reward.config.hidden_size, denoiser.model.config.vocab_size, bias=False)
        self.old_head.load_state_dict(denoiser.model.lm_head.state_dict())
        self.backbone = torch.compile(self.reward.model, dynamic=False)

    def forward(
        self, task: str, examples: list[Example], texts: list[str], labels: torch.Tensor, variants: int
    ) -> tuple[torch.Tensor, list[float]]:
        """examples, texts and labels (variants x prompts): all prompts' first variant, then all their second, ..."""
        width = WIDTHS[task] + 1  # the end token
        prompts = [e.prompt for e in examples]
        ids, last = render(self.tokenizer, prompts, texts, width)
        truth, _ = render(self.tokenizer, prompts, [e.reference for e in examples], width)
        _, starts = render(self.tokenizer, prompts, [""] * len(prompts), width)
        attention = ids != self.tokenizer.pad_token_id
        judged = results(self.tokenizer, task, truth) & (torch.arange(width) >= starts[:, None])
        right = (ids == truth)[judged]
        with torch.autocast("cpu", torch.bfloat16):
            states = self.backbone(input_ids=ids, attention_mask=attention.long()).last_hidden_state
        states = states.float()
        scores = self.reward.score(states[torch.arange(len(last)), last])[:, 0]
        token_scores = self.token_head(states[judged])[:, 0]
        level = F.binary_cross_entropy_with_logits(scores, labels)
        token = F.binary_cross_entropy_with_logits(token_scores, right.float())
        loss = level + token
        if not right.all():
            loss = loss + F.cross_entropy(self.old_head(states[judged][~right]), truth[judged][~right])
        ranking = hits = torch.tensor(torch.nan)
        if variants > 1:
            by_prompt = [x.view(variants, -1).T for x in (scores, labels)]
            better = by_prompt[1][:, :, None] > by_prompt[1][:, None, :]
            gap = (by_prompt[0][:, :, None] - by_prompt[0][:, None, :])[better]
            ranking, hits = F.softplus(-gap).mean(), (gap > 0).float().mean()
            loss = loss + ranking
        return loss, [
            float(x.detach()) for x in (ranking, hits, level, token, ((token_scores > 0) == right).float().mean())
        ]


def own_decodings(
    denoiser: Denoiser, task: str, examples: list[Example], order: str, tokens_per_step: int, seed: int, watched: bool
) -> tuple[list[str], list[Candidate]]:
    """The model's answers in an order and, if asked, all intermediate sequences as RWS would show them."""
    settings = (f"benchmark={task}", f"sampler.order={order}", f"sampler.tokens_per_step={tokens_per_step}")
    sampler = compose("sampler=confidence", *settings).sampler
    if watched:
        sampler = unguided(sampler)
    texts: list[str] = []
    seen: list[Candidate] = []
    for start in range(0, len(examples), 64):
        part = examples[start : start + 64]
        canvas, candidates = decode_recorded(
            denoiser, part, [denoiser.encode(example.prompt) for example in part], sampler, seed
        )
        texts += map(denoiser.text, canvas.completion_BG.tolist())
        seen += candidates
    return texts, seen


def measure(reward: Classifier, denoiser: Denoiser, problems: int) -> dict[str, Any]:
    """Pairwise accuracy and rank correlation on test problems, for each benchmark and together."""
    figures: dict[str, Any] = {"problems_per_benchmark": problems}
    all_hits: list[bool] = []
    all_scores: list[float] = []
    all_partials: list[float] = []
    for task, kind in BENCHMARKS.items():
        benchmark = kind(limit=problems, seed=7)
        examples = benchmark.examples()
        # Own complete answers: random order, one to all tokens per step, each with its own seed.
        answers = [
            own_decodings(denoiser, task, examples, "random", per_step, seed, watched=False)[0]
            for seed, per_step in enumerate((1, 2, 4, LENGTHS[task]))
        ]
        scored = [score(reward, [Candidate(e, t, 1.0, -1) for e, t in zip(examples, a, strict=True)]) for a in answers]
        grades = [[benchmark.grade(e, t).partial for e, t in zip(examples, a, strict=True)] for a in answers]
        hits = [
            (scored[a][n] > scored[b][n]) == (grades[a][n] > grades[b][n])
            for n in range(problems)
            for a, b in itertools.combinations(range(len(answers)), 2)
            if grades[a][n] != grades[b][n]
        ]
        sample = random.Random(0)
        seen = [
            candidate
            for order in ("confidence", "random")
            for candidate in own_decodings(denoiser, task, examples, order, 1, 11, watched=True)[1]
        ]
        seen = sample.sample(seen, min(4000, len(seen)))
        scores = score(reward, seen)
        partials = [benchmark.grade(c.example, c.text).partial for c in seen]
        figures[task] = {
            "pairs": len(hits),
            "pairwise_accuracy": round(float(np.mean(hits)), 4),
            "intermediate_sequences": len(seen),
            "spearman": round(float(spearmanr(scores, partials).statistic), 4),
        }
        all_hits, all_scores, all_partials = all_hits + hits, all_scores + scores, all_partials + partials
    figures["together"] = {
        "pairs": len(all_hits),
        "pairwise_accuracy": round(float(np.mean(all_hits)), 4),
        "intermediate_sequences": len(all_scores),
        "spearman": round(float(spearmanr(all_scores, all_partials).statistic), 4),
    }
    return figures


def score(reward: Classifier, candidates: list[Candidate]) -> list[float]:
    return reward.score(candidates).values


def calibrate(reward: Classifier, denoiser: Denoiser, problems: int) -> dict[str, Any]:
    """Statistics of scores over whole decodings of training problems, confidence and random order."""
    seen: list[Candidate] = []
    for task, kind in BENCHMARKS.items():
        examples = kind(limit=problems, seed=3).examples("train")
        for order in ("confidence", "random"):
            seen += own_decodings(denoiser, task, examples, order, 1, 5, watched=True)[1]
    source = (
        f"Bundled model, {problems} training problems of each benchmark, confidence and random order, a token a step, "
        "masks filled with the likeliest token; every step counts once."
    )
    return statistics_of(score(reward, seen), [candidate.progress for candidate in seen], source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mdm", default="bundled:tiny-mdm")
    parser.add_argument("--out", type=Path, default=Path("rws_cli/assets/tiny-reward"))
    parser.add_argument("--practice", type=int, default=1300, help="steps of the first part")
    parser.add_argument("--steps", type=int, default=2300, help="steps of both parts")
    parser.add_argument("--batch", type=int, default=24, help="sudokus a step (four damaged answers to each)")
    parser.add_argument("--arithmetic-batch", type=int, default=24, help="word problems a step, likewise")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon-lr", type=float, default=5e-3)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--test-problems", type=int, default=200)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    denoiser = compose(f"model.path={args.mdm}", "model.device=cpu").model.load()
    tokenizer = tiny_tokenizer.build()
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.padding_side = "right"
    lesson = Lesson(denoiser, tokenizer)
    reward = lesson.reward
    optimizers = make_optimizers(lesson, args)
    benchmarks = {task: kind(limit=1) for task, kind in BENCHMARKS.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    curve = args.out / "curve.jsonl"
    curve.write_text("", encoding="utf-8")
    print(f"{sum(p.numel() for p in reward.parameters()):,} parameters", flush=True)

    started = time.monotonic()
    recent: list[list[float]] = []
    for step in range(args.steps):
        scale = min((step + 1) / args.warmup, 1.0, (args.steps - step) / (0.6 * args.steps))
        for optimizer, lr in zip(optimizers, (args.muon_lr, args.lr), strict=True):
            optimizer.param_groups[0]["lr"] = lr * scale
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        practice = step < args.practice
        # Sums need the practice; sudokus hardly do.
        sizes = (
            {"sudoku": 8, "arithmetic": 96} if practice else {"sudoku": args.batch, "arithmetic": args.arithmetic_batch}
        )
        row: list[float] = []
        for task, make in MAKERS.items():
            pairs = [make(random.Random(f"reward {args.seed} {step} {i}"), "train") for i in range(sizes[task])]
            ids, length = encode(denoiser.tokenizer, task, pairs)
            if practice:
                answers = spoil(tokenizer, task, ids[:, -length:], 1.0, generator)
            else:
                answers = torch.cat([damage(denoiser, task, ids, length, how, generator) for how in VARIANTS])
            variants = 1 if practice else len(VARIANTS)
            examples = [Example("", p, a) for p, a in pairs] * variants
            texts = [denoiser.text(answer) for answer in answers.tolist()]
            labels = torch.tensor([benchmarks[task].grade(e, t).partial for e, t in zip(examples, texts, strict=True)])
            loss, seen = lesson(task, examples, texts, labels, variants)
            loss.backward()
            row += seen
        torch.nn.utils.clip_grad_norm_(lesson.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(row)
        if (step + 1) % args.log_every == 0 or step + 1 in (args.practice, args.steps):
            names = [f"{task}_{what}" for task in MAKERS for what in FIGURES]
            means = zip(names, np.mean(recent, axis=0).tolist(), strict=True)
            line = {"step": step + 1, "seconds": round(time.monotonic() - started, 1)}
            line |= {name: round(mean, 4) for name, mean in means if mean == mean}
            recent.clear()
            with curve.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)

    reward.eval().to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    saved = compose(f"reward.path={args.out.resolve()}", "reward.device=cpu").reward.loaded(None, 0)
    statistics = calibrate(saved, denoiser, args.test_problems)
    (args.out / "normalization.json").write_text(json.dumps(statistics) + "\n", encoding="utf-8")
    figures = measure(saved, denoiser, args.test_problems)
    figures["parameters"] = sum(p.numel() for p in reward.parameters())
    figures["training_seconds"] = round(time.monotonic() - started, 1)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
