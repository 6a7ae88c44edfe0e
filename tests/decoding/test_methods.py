"""Each method against a slow reference, written here from its specification: one row, one position at a time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from support import FakeDenoiser, decode, make_sampler, new_canvas, new_rows, part

from rws_cli.decoding.batch import Batch
from rws_cli.decoding.noise import row_key, uniform
from rws_cli.decoding.prediction import GUMBEL, ORDER, PURPOSES
from rws_cli.decoding.statistics import Statistics
from rws_cli.decoding.step import Prediction, Ranking, step_of

EXAMPLE, SEED = "example-3", 5
KEY = torch.tensor([row_key(SEED, EXAMPLE)])


def chance(step: int, position: int, counter: int) -> float:
    """The runner's own uniform number, so that both draw the same. Counters: 0 random, 1 place, 2 masking again."""
    return float(uniform(KEY, step * PURPOSES + ORDER, torch.tensor([position]), counter + 1)[0, counter])


class Slow:
    """One row, decoded by hand. `x` is the response; -1 is a mask. `commit_p` is each token's probability when committed."""

    def __init__(self, model: FakeDenoiser, prompt: list[int], gen: int, temperature: float = 0.0, top_p: float = 1.0):
        self.model, self.prompt, self.temperature, self.top_p = model, prompt, temperature, top_p
        self.x, self.commit_p, self.passes = [-1] * gen, [0.0] * gen, 0

    def tokens(self) -> torch.Tensor:
        return torch.tensor([self.prompt + [self.model.mask_id if t < 0 else t for t in self.x]])

    def look(self, step: int, where: list[int]) -> dict[int, dict[str, Any]]:
        """For each masked position of `where` its logits, probabilities and proposed token."""
        ids = self.tokens()
        logits = self.model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(self.prompt) :]
        self.last = logits
        self.passes += 1
        return {i: self.propose(logits[i], step, i) for i in where if self.x[i] < 0}

    def propose(self, z: torch.Tensor, step: int, i: int) -> dict[str, Any]:
        raw = z.softmax(-1).tolist()
        tempered = (z / self.temperature).softmax(-1).tolist() if self.temperature else raw
        if self.top_p < 1:
            kept, mass = [], 0.0
            for token in sorted(range(len(raw)), key=lambda t: -tempered[t]):
                if mass < self.top_p:
                    kept.append(token)
                mass += tempered[token]
            total = sum(tempered[t] for t in kept)
            tempered = [tempered[t] / total if t in kept else 0.0 for t in range(len(raw))]
        legal = [t for t in range(len(raw)) if t != self.model.mask_id]
        if self.temperature:
            u = uniform(KEY, step * PURPOSES + GUMBEL, torch.tensor([i]), len(raw))[0].tolist()
            noisy = [math.log(p) - math.log(-math.log(v)) if p else -math.inf for p, v in zip(tempered, u, strict=True)]
            token = max(legal, key=lambda t: noisy[t])
        else:
            token = max(legal, key=lambda t: raw[t])
        return {"z": z.tolist(), "p": raw, "tempered": tempered, "token": token, "c": raw[token]}

    def commit(self, seen: dict[int, dict[str, Any]], positions: list[int]) -> None:
        for i in positions:
            self.x[i], self.commit_p[i] = seen[i]["token"], seen[i]["c"]

    def masked(self, where: list[int]) -> list[int]:
        return [i for i in where if self.x[i] < 0]


def fast(model: FakeDenoiser, prompt: list[int], gen: int, scorer=None, **settings: Any):
    canvas = new_canvas([prompt], [EXAMPLE], gen, model.mask_id, 0, SEED)
    (trace,) = decode(model, canvas, make_sampler(gen, **settings), scorer)
    return canvas.completion_BG[0].tolist(), trace


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def adaptive(slow: Slow, block: int, rule) -> list[int]:
    """Block by block, as many steps as it takes; rule: (what was seen, step in the block) → positions to commit."""
    gen = len(slow.x)
    for b in range(gen // block):
        where = list(range(b * block, (b + 1) * block))
        index = 0
        while slow.masked(where):
            seen = slow.look(b * block + index, where)
            slow.commit(seen, rule(seen, index))
            index += 1
    return slow.x


def surest(seen: dict[int, dict[str, Any]]) -> list[int]:
    return sorted(seen, key=lambda i: (-seen[i]["c"], i))


SIZES = [(8, 8), (12, 4), (9, 3)]
PROMPT = [1, 4, 2]


@pytest.mark.parametrize(("gen", "block"), SIZES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(3))
class TestParallel:
    def model(self, seed: int) -> FakeDenoiser:
        model = FakeDenoiser(seed=seed)
        model.head *= 1.5  # sure of some tokens
        return model

    def test_threshold(self, gen: int, block: int, temperature: float, seed: int) -> None:
        model = self.model(seed)

        def rule(seen, _):
            return [i for i in seen if seen[i]["c"] >= 0.7] or surest(seen)[:1]

        slow = Slow(model, PROMPT, gen, temperature)
        expected = adaptive(slow, block, rule)
        settings = {
            "block_length": block,
            "temperature": temperature,
            "schedule": part("schedule", "threshold", threshold=0.7),
        }
        assert fast(model, PROMPT, gen, **settings)[0] == expected
        assert slow.passes < gen

    def test_factor(self, gen: int, block: int, temperature: float, seed: int) -> None:
        model = self.model(seed)

        def rule(seen, _):
            ranked = surest(seen)
            fits = [n for n in range(1, len(ranked) + 1) if (n + 1) * (1 - seen[ranked[n - 1]]["c"]) < 1.3]
            return ranked[: max(fits, default=1)]

        expected = adaptive(Slow(model, PROMPT, gen, temperature), block, rule)
        settings = {
            "block_length": block,
            "temperature": temperature,
            "schedule": part("schedule", "factor", factor=1.3),
        }
        assert fast(model, PROMPT, gen, **settings)[0] == expected

    @pytest.mark.parametrize("proxy", ["entropy", "confidence", "margin"])
    def test_entropy_bounded(self, gen: int, block: int, temperature: float, seed: int, proxy: str) -> None:
        model = self.model(seed)

        def error(one) -> float:
            top = sorted(one["p"], reverse=True)
            return {"entropy": entropy(one["p"]), "confidence": -one["c"], "margin": top[1] - top[0]}[proxy]

        def rule(seen, _):
            ranked = sorted(seen, key=lambda i: (error(seen[i]), i))
            longest = 1
            for n in range(1, len(ranked) + 1):
                h = [entropy(seen[i]["p"]) for i in ranked[:n]]
                if sum(h) - max(h) <= 0.8:
                    longest = n
            return ranked[:longest]

        expected = adaptive(Slow(model, PROMPT, gen, temperature), block, rule)
        settings = {"block_length": block, "temperature": temperature, "order": proxy}
        assert fast(model, PROMPT, gen, schedule=part("schedule", "eb", gamma=0.8), **settings)[0] == expected

    def test_klass(self, gen: int, block: int, temperature: float, seed: int) -> None:
        """As in the authors' code: the history covers every mask of the answer, from block to block, and the first
        length − 1 steps of a block take one token each."""
        model, length = self.model(seed), 1 + seed % 2
        history: dict[int, list[list[float]]] = {i: [] for i in range(gen)}
        slow = Slow(model, PROMPT, gen, temperature)
        for b in range(gen // block):
            where = range(b * block, (b + 1) * block)
            index = 0
            while slow.masked(list(where)):
                everywhere = slow.look(b * block + index, list(range(gen)))
                ready = []
                for i, one in everywhere.items():
                    past = history[i] = [*history[i], one["p"]][-length - 1 :]
                    kls = [
                        sum(q * math.log(q / p) for q, p in zip(now, before, strict=True) if q > 0)
                        for before, now in itertools.pairwise(past)
                    ]
                    calm = len(kls) == length and all(kl < 0.5 for kl in kls)
                    if i in where and index >= length - 1 and one["c"] >= 0.5 and calm:
                        ready.append(i)
                seen = {i: one for i, one in everywhere.items() if i in where}
                slow.commit(seen, ready or surest(seen)[:1])
                index += 1
        schedule = part("schedule", "klass", threshold=0.5, kl=0.5, history=length)
        found, trace = fast(model, PROMPT, gen, block_length=block, temperature=temperature, schedule=schedule)
        assert found == slow.x
        assert len(set(trace.step)) == slow.passes

    def test_wino(self, gen: int, block: int, temperature: float, seed: int) -> None:
        """As in the authors' code: shadows see each other, at most min(max(⌊share·masked⌋, least), most) tokens are
        committed, and fewer are masked again than the step before committed."""
        model = self.model(seed)
        slow = Slow(model, PROMPT, gen, temperature)
        taken_back = 0
        for b in range(gen // block):
            where = list(range(b * block, (b + 1) * block))
            index, last = 0, 30
            while slow.masked(where):
                most = min(max(int(0.6 * len(slow.masked(where))), 2), 3)
                before = [i for i in where if slow.x[i] >= 0]
                doubt = {i: self.shadow_p(model, slow, where, i) for i in before}
                seen = slow.look(b * block + index, where)
                chosen = [i for i in surest(seen) if seen[i]["c"] > 0.4][:most] or surest(seen)[:1]
                slow.commit(seen, chosen)
                bad = sorted((i for i in before if doubt[i] < 0.6), key=lambda i: (doubt[i], i))
                bad = bad[: last - 1] if len(chosen) > 1 else []
                for i in bad:
                    slow.x[i] = -1
                taken_back += len(bad)
                index, last = index + 1, len(chosen)
        schedule = part("schedule", "wino", threshold=0.4, verify=0.6, most=3, share=0.6, least=2)
        found, trace = fast(model, PROMPT, gen, block_length=block, temperature=temperature, schedule=schedule)
        assert found == slow.x
        assert len(trace.step) == gen + taken_back

    def shadow_p(self, model: FakeDenoiser, slow: Slow, where: list[int], i: int) -> float:
        """The probability of the token at i for its shadow, which sees all shadows of the block, and all but i."""
        tokens, first = slow.tokens()[0].tolist(), len(slow.prompt)
        state, weight = torch.zeros(16, dtype=torch.float64), 0.0
        seen = [(model.embedding[t], p) for p, t in enumerate(tokens) if p != first + i]
        seen += [(model.embedding[model.mask_id], first + k) for k in where]
        for embedding, place in seen:
            k = math.exp(-0.2 * abs(place - first - i))
            state, weight = state + k * (embedding + model.place[place]), weight + k
        logits = torch.tanh(state / weight * 2) @ model.head
        logits[model.mask_id] = -40.0
        return float(logits.softmax(-1)[slow.x[i]])


def rows_of(rows: int, gen: int) -> Batch:
    """Rows with all of their answers masked."""
    return new_rows([[1]] * rows, [f"row-{n}" for n in range(rows)], gen, 11, 0, gen)


def ranking_of(log_p_BG: torch.Tensor, open_BG: torch.Tensor) -> Ranking:
    """What a step knows where the order is confidence and no schedule reads more."""
    (row_N, position_N), closed_BG = open_BG.nonzero().unbind(1), log_p_BG.masked_fill(~open_BG, -torch.inf)
    return Ranking(
        open_BG=open_BG, ranked_BG=open_BG, row_N=row_N, position_N=position_N, features_N=torch.zeros(len(row_N), 0),
        token_BG=torch.ones_like(open_BG).long(), log_p_BG=closed_BG, raw_BG=log_p_BG, score_BG=closed_BG,
        tied_BG=closed_BG,
    )  # fmt: skip


@pytest.mark.parametrize("masked", [1, 7, 8, 20, 29, 64])
def test_winos_cap_is_the_published_one(masked: int) -> None:
    schedule, batch = part("schedule", "wino", threshold=0.6, verify=0.9, most=20, share=0.7, least=5), rows_of(1, 64)
    schedule.prepare(make_sampler(64))
    batch.completion_BG[:, masked:] = 1
    ranking = ranking_of(torch.zeros(1, 64, dtype=torch.float64), batch.masked_BG)
    assert int(schedule.choose(ranking, step_of(batch)).sum()) == min(masked, min(max(int(0.7 * masked), 5), 20))


def test_the_factor_rule_counts_every_n() -> None:
    """The trap: [.99, .9, .1] with f = 1 gives 2; and a first failure does not end the search for a larger n."""

    def committed(*c: float, factor: float = 1.0) -> int:
        schedule = part("schedule", "factor", factor=factor)
        log_p = torch.tensor([c], dtype=torch.float64).log()
        ranking = ranking_of(log_p, torch.ones(1, len(c), dtype=torch.bool))
        return int(schedule.choose(ranking, None).sum())

    assert committed(0.99, 0.9, 0.1) == 2
    assert committed(0.1, 0.99, 0.9) == 2  # in whatever place
    assert committed(0.3, 0.2) == 1
    assert committed(0.5, 0.5, 0.5, factor=1.6) == 2
    assert committed(0.6, 0.6, 0.6, factor=0.7) == 1


def counted(slow: Slow, block: int, steps: int, rule) -> list[int]:
    """Block by block in `steps` steps; rule: (seen, index, number masked at the block's start) → positions."""
    for b in range(len(slow.x) // block):
        where = list(range(b * block, (b + 1) * block))
        for index in range(steps):
            rule(slow, where, index, b * steps + index)
    return slow.x


def plan(block: int, steps: int, index: int) -> int:
    return block // steps + (index < block % steps)


def pc(decay: float, cap: float, frequency_V: torch.Tensor) -> Any:
    order = part("order", "pc", decay=decay, cap=cap)
    order.use(frequency_V)
    return order


@pytest.mark.parametrize(("gen", "block"), SIZES)
@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_pc(gen: int, block: int, decay: float) -> None:
    """Positions count from the block's start, and the score falls with frequency: the sign and offset traps."""
    model = FakeDenoiser(seed=2)
    frequency = torch.arange(1, model.vocabulary + 1, dtype=torch.float64) ** 2
    frequency /= frequency.sum()
    slow = Slow(model, PROMPT, gen)

    def rule(slow, where, index, step):
        seen = slow.look(step, where)

        def score(i: int) -> float:
            f = float(frequency[seen[i]["token"]])
            return math.exp(-decay * (i - where[0])) * min(-seen[i]["c"] * math.log(f + 1e-9), 2.0)

        slow.commit(seen, sorted(seen, key=lambda i: (-score(i), i))[:1])

    expected = counted(slow, block, block, rule)
    found, trace = fast(model, PROMPT, gen, block_length=block, order=pc(decay, 2.0, frequency))
    assert found == expected
    assert fast(model, PROMPT, gen, block_length=block)[1].position != trace.position


def test_pc_takes_the_rarer_of_two_equally_sure_tokens() -> None:
    log_p = torch.log(torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], dtype=torch.float64))
    proposed = torch.tensor([0, 1])
    place, same = torch.tensor([6, 7]), torch.tensor([0, 0])
    prediction = Prediction(same, place, proposed, proposed, log_p[[0, 1], [0, 1]], log_p[:, :0], same, same)
    frequency = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64)
    step = step_of(new_rows([[1]], ["a"], 8, 3, 0, 8))

    def scores(decay: float, cap: float) -> list[float]:
        return pc(decay, cap, frequency).score(prediction, step).tolist()

    common, rare = scores(0.0, 10.0)
    assert common == pytest.approx(-0.8 * math.log(0.9 + 1e-9))
    assert 0 < common < rare
    assert scores(0.0, 1.0)[1] == 1.0  # capped
    assert scores(0.5, 10.0)[1] == pytest.approx(rare * math.exp(-0.5))


@pytest.mark.parametrize("region", [(0, None), (7, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_prophet(seed: int, region: tuple[int, int | None]) -> None:
    """As in the authors' code: gaps of the answer region, masked or not; progress, from 1, over the steps of all blocks;
    the exit fills all that is masked and ends."""
    model, exits = FakeDenoiser(seed=seed), []
    slow = Slow(model, PROMPT, 12)
    answer = range(region[0], 12 if region[1] is None else region[0] + region[1])
    for step in range(12):
        where = list(range(step // 6 * 6, step // 6 * 6 + 6))
        seen = slow.look(step, list(range(12)))
        tops = [sorted(slow.last[i].tolist(), reverse=True) for i in answer]
        progress = (step + 1) / 12
        needed = 4.0 if progress < 0.33 else 3.2 if progress < 0.67 else 2.0
        if sum(top[0] - top[1] for top in tops) / len(tops) >= needed:
            exits.append(step)
            slow.commit(seen, list(seen))
            break
        inside = {i: one for i, one in seen.items() if i in where}
        slow.commit(inside, surest(inside)[:1])
    schedule = part(
        "schedule", "prophet", early=4.0, middle=3.2, late=2.0, answer_start=region[0], answer_length=region[1]
    )
    found, trace = fast(model, PROMPT, 12, block_length=6, schedule=schedule)
    assert found == slow.x
    assert len(set(trace.step)) == slow.passes
    assert exits or seed


def test_what_prophet_reads_of_committed_tokens_is_not_shown_to_a_reward() -> None:
    """Gaps that never suffice leave the base schedule, and the reward sees every committed token as it is."""
    model = FakeDenoiser(seed=2)
    guidance = part("guidance", "rws", strength=2.0)
    settings = {"block_length": 4, "guidance": guidance, "scorer": SumReward(model.mask_id)}
    prophet = part("schedule", "prophet", early=1e6, middle=1e6, late=1e6)
    (found, watched), (expected, plain) = (
        fast(model, PROMPT, 8, **settings, schedule=schedule) for schedule in (prophet, part("schedule", "fixed"))
    )
    assert (found, watched.position, watched.reward) == (expected, plain.position, plain.reward)


DREAM = {"confidence": "tempered", "temperature": 0.7, "top_p": 0.9}


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
@pytest.mark.parametrize("alg_temp", [0.0, 0.4])
@pytest.mark.parametrize("steps", [3, 5, 8])
def test_dream_orders(order: str, alg_temp: float, steps: int) -> None:
    """t from 1 to 1e-3; int(m(1 − s/t)) of the row's own m masked positions; positions by chance at alg_temp."""
    model = FakeDenoiser(seed=steps)
    times = [1 - n * (1 - 1e-3) / steps for n in range(steps + 1)]
    slow = Slow(model, PROMPT, 8, 0.7, 0.9)

    def rule(slow, where, index, step):
        masked = slow.masked(where)
        share = 1 - times[index + 1] / times[index]
        count = len(masked) if index == steps - 1 else int(len(masked) * share)
        if not count:
            return
        seen = slow.look(step, where)

        def score(i: int) -> float:
            p = seen[i]["tempered"]
            top = sorted(p, reverse=True)
            value = {"confidence": p[seen[i]["token"]], "margin": top[0] - top[1], "entropy": -entropy(p)}[order]
            return value / alg_temp - math.log(-math.log(chance(step, i, 1))) if alg_temp else value

        slow.commit(seen, sorted(seen, key=lambda i: (-score(i), i))[:count])

    expected = counted(slow, 8, steps, rule)
    settings = {"steps": steps, "order": order, "order_temperature": alg_temp, **DREAM}
    assert fast(model, PROMPT, 8, schedule=part("schedule", "dream", eps=1e-3), **settings)[0] == expected


@pytest.mark.parametrize("steps", [3, 8])
def test_dream_origin(steps: int) -> None:
    model = FakeDenoiser(seed=steps)
    times = [1 - n * (1 - 1e-3) / steps for n in range(steps + 1)]
    slow = Slow(model, PROMPT, 8, 0.7, 0.9)

    def rule(slow, where, index, step):
        share = 1 - times[index + 1] / times[index] if index < steps - 1 else 1.0
        lucky = [i for i in slow.masked(where) if chance(step, i, 0) < share]
        if lucky:
            seen = slow.look(step, where)
            slow.commit(seen, lucky)

    expected = counted(slow, 8, steps, rule)
    settings = {"steps": steps, "order": "random", **DREAM}
    assert fast(model, PROMPT, 8, schedule=part("schedule", "dream", eps=1e-3, origin=True), **settings)[0] == expected


def test_dreams_counts_are_each_rows_own() -> None:
    """The trap: a batch mean of masked counts would make a row's tokens depend on its neighbors'."""
    model = FakeDenoiser(seed=1)
    sampler = make_sampler(8, steps=5, eos="stop", schedule=part("schedule", "dream", eps=1e-3), **DREAM)
    alone = []
    for n in range(6):
        canvas = new_canvas([PROMPT], [f"row-{n}"], 8, model.mask_id, 0, SEED)
        decode(model, canvas, sampler)
        alone.append(canvas.completion_BG[0].tolist())
    together = new_canvas([PROMPT] * 6, [f"row-{n}" for n in range(6)], 8, model.mask_id, 0, SEED)
    decode(model, together, sampler)
    assert together.completion_BG.tolist() == alone
    assert any(model.eos_ids[0] in row for row in alone)  # some rows have fewer masked positions than others


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
@pytest.mark.parametrize("ties", ["leftmost", "probability"])
def test_dreams_ties(order: str, ties: str) -> None:
    """A nucleus of one token scores 1 (an entropy of 0) whatever the model thinks of it: most scores tie."""
    tied = 0
    for seed in range(2):
        slow = Slow(FakeDenoiser(seed=seed), PROMPT, 8, 0.2, 0.7)
        for step in range(8):
            seen = slow.look(step, list(range(8)))

            def score(one: dict[str, Any]) -> float:
                top = sorted(one["tempered"], reverse=True)
                alone = {"confidence": one["tempered"][one["token"]], "margin": top[0] - top[1]}
                return round(alone.get(order, -entropy(one["tempered"])), 12)

            scores = {i: score(one) for i, one in seen.items()}
            highest = [i for i in seen if scores[i] == max(scores.values())]
            tied += len(highest) > 1
            slow.commit(seen, [min(highest, key=lambda i: (-seen[i]["c"], i) if ties == "probability" else (i,))])
        settings = {"confidence": "tempered", "temperature": 0.2, "top_p": 0.7, "order": order, "ties": ties}
        assert fast(slow.model, PROMPT, 8, **settings)[0] == slow.x
    assert tied > 4


LOOP = (0.6, 0.2, 0.8)
REMDM = [("cap", 0.3, None), ("rescale", 0.6, None), ("conf", 1.0, None), ("cap", 0.5, LOOP)]


def alpha_of(t: float, loop: tuple[float, float, float] | None) -> float:
    """The share of committed tokens at time t; loop: t_on, t_off and what it is in between."""
    if loop is None:
        return 1 - t
    on, off, held = loop
    return (1 - t) / (1 - on) * held if t > on else held if t > off else 1 - (1 - held) * t / off


def remdm(sigma: str, eta: float, loop: tuple[float, float, float] | None) -> Any:
    on, off, held = loop or (None, None, None)
    return part("schedule", "remdm", sigma=sigma, eta=eta, t_on=on, t_off=off, alpha_on=held)


@pytest.mark.parametrize(("sigma", "eta", "loop"), REMDM)
@pytest.mark.parametrize("seed", range(3))
def test_remdm(sigma: str, eta: float, loop: tuple[float, float, float] | None, seed: int) -> None:
    model, steps = FakeDenoiser(seed=seed), 10
    slow = Slow(model, PROMPT, 8, 1.0, 0.9)
    again = 0

    def rule(slow, where, index, step):
        nonlocal again
        t, s = 1 - index / steps, max(1 - (index + 1) / steps, 0.0)
        a_t, a_s = alpha_of(t, loop), alpha_of(s, loop)
        most = min(1.0, (1 - a_s) / a_t) if a_t else 1.0
        if loop and not loop[1] < t <= loop[0]:
            most = 0.0
        committed = [i for i in where if slow.x[i] >= 0]
        exps = {i: math.exp(-slow.commit_p[i]) for i in committed}
        rate = {
            i: {"cap": min(eta, most), "rescale": eta * most, "conf": most * exps[i] / sum(exps.values())}[sigma]
            for i in committed
        }
        own = {"cap": min(eta, most), "rescale": eta * most, "conf": 0.0}[sigma]
        weight = 1.0 if index == steps - 1 else (a_s - (1 - own) * a_t) / (1 - a_t)
        lucky = [i for i in slow.masked(where) if chance(step, i, 0) < weight]
        if lucky:
            slow.commit(slow.look(step, where), lucky)
        for i in committed:
            if index < steps - 1 and chance(step, i, 2) < rate[i]:
                slow.x[i] = -1
                again += 1

    expected = counted(slow, 8, steps, rule)
    settings = {"steps": steps, "order": "random", "temperature": 1.0, "top_p": 0.9}
    schedule = remdm(sigma, eta, loop)
    found, trace = fast(model, PROMPT, 8, schedule=schedule, **settings)
    assert found == expected
    assert len(trace.step) == 8 + again


def remdm_shares(schedule: Any, rows: int, length: int, steps: int) -> tuple[list[float], int]:
    """The share that is masked after each step, and how many tokens were masked again."""
    schedule.prepare(make_sampler(length, steps=steps))
    batch = rows_of(rows, length)
    batch.key_B = torch.tensor([row_key(n, EXAMPLE) for n in range(rows)])
    batch.commit_p_BG[:] = 0.5
    shares, again = [], 0
    for index in range(steps):
        batch.index_B[:] = index
        step = step_of(batch)
        chosen = schedule.candidates(step)
        back = schedule.remask_after(chosen, None, step)
        batch.completion_BG.masked_fill_(chosen, 1)
        if back is not None:
            again += int(back.sum())
            batch.mask(back)
        shares.append(float(batch.masked_BG.double().mean()))
    return shares, again


@pytest.mark.parametrize(
    ("sigma", "eta", "loop"),
    [("cap", 0.04, None), ("cap", 1.0, None), ("rescale", 0.3, None), ("cap", 0.05, (0.55, 0.05, 0.9))],
)
def test_remdm_keeps_the_marginals_it_promises(sigma: str, eta: float, loop: tuple[float, float, float] | None) -> None:
    """After the step from t to s a share 1 − α_s is masked, however often tokens are masked again."""
    rows, length, steps = 400, 60, 12
    schedule = remdm(sigma, eta, loop)
    shares, again = remdm_shares(schedule, rows, length, steps)
    for index, share in enumerate(shares):
        promised = 1 - alpha_of(1 - (index + 1) / steps, loop)
        noise = (promised * (1 - promised) / (rows * length)) ** 0.5 if index < steps - 1 else 0
        assert abs(share - promised) <= 4 * noise + 1e-12
    assert again > rows


def test_remdm_conf_does_not_keep_them() -> None:
    """Three tokens in ten steps. After the first each stands with 0.1. The second masks one of those that stand again,
    for their rates add up to σ_max = 1, and fills a mask with 1/9: 0.8903 are masked, where 1 − α is 0.8."""
    schedule = remdm("conf", 1.0, None)
    shares, _ = remdm_shares(schedule, 6000, 3, 10)
    standing = (0.3 - (1 - 0.9**3) + 2.7 / 9) / 3
    assert 1 - standing == pytest.approx(0.8903, abs=1e-4)
    assert shares[0] == pytest.approx(0.9, abs=0.01)
    assert shares[1] == pytest.approx(1 - standing, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_remdm_for_llada(seed: int) -> None:
    model, block, rounds, k = FakeDenoiser(seed=seed), 8, 5, 2
    slow = Slow(model, PROMPT, 16)

    def refill(slow, where, step, count):
        if count:
            seen = slow.look(step, where)
            slow.commit(seen, surest(seen)[:count])

    for b in range(2):
        where = list(range(b * block, (b + 1) * block))
        step = b * (block + rounds)
        left = block
        while (block - left) < 7 / 8 * block:
            refill(slow, where, step, 1)
            left, step = left - 1, step + 1
        for _ in range(rounds):
            committed = [i for i in where if slow.x[i] >= 0]
            for i in sorted(committed, key=lambda i: (slow.commit_p[i], i))[:k]:
                slow.x[i] = -1
            refill(slow, where, step, k)
            step += 1
        for _ in range(left):
            refill(slow, where, step, 1)
            step += 1
    schedule = part("schedule", "refine", share=7 / 8, rounds=rounds, remask=k)
    found, trace = fast(model, PROMPT, 16, block_length=block, schedule=schedule)
    assert found == slow.x
    assert len(trace.step) == 16 + 2 * rounds * k


class SumReward:
    """Scores by the sum of the tokens that are there."""

    statistics = Statistics(mean=20.0, std=12.0, min=0.0, max=60.0)

    def __init__(self, mask_id: int) -> None:
        self.mask_id = mask_id

    def __call__(self, rows, tokens_BG, filled, step):
        return [float(row[row != self.mask_id].sum()) for row in tokens_BG]


@pytest.mark.parametrize("choose", ["confidence", "random"])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_r3(choose: str, window: int, seed: int) -> None:
    model, block, rounds, threshold = FakeDenoiser(seed=seed), 4, 2, 0.7
    slow = Slow(model, PROMPT, 12)
    again = 0

    def fill(where: list[int], first: int) -> None:
        started = len(slow.masked(where))
        for index in range(block):
            count = started // block + (index < started % block)
            if count:
                seen = slow.look(first + index, where)
                slow.commit(seen, surest(seen)[:count])

    for b in range(3):
        first = b * (1 + rounds) * block
        fill(list(range(b * block, (b + 1) * block)), first)
        for n in range(1, rounds + 1):
            step, gone = first + n * block, []
            for reviewed in range(max(0, b + 1 - window), b + 1):
                end = (reviewed + 1) * block
                r = 1 / (1 + math.exp(-(sum(slow.x[:end]) - 20.0) / 12.0))
                if r < threshold:
                    inside = list(range(end - block, end))
                    sure = [slow.commit_p[i] if choose == "confidence" else chance(step, i, 2) for i in inside]
                    gone += [i for _, i in sorted(zip(sure, inside, strict=True))][: round((1 - r) * block)]
            if not gone:
                break
            again += len(gone)
            for i in gone:
                slow.x[i] = -1
            fill(list(range(max(0, b + 1 - window) * block, (b + 1) * block)), step)
    review = part("remasking", "r3", threshold=threshold, rounds=rounds, window=window, choose=choose)
    found, trace = fast(model, PROMPT, 12, scorer=SumReward(model.mask_id), block_length=block, remasking=review)
    assert found == slow.x
    assert len(trace.step) == 12 + again
    assert again or seed  # the first model's blocks are low
