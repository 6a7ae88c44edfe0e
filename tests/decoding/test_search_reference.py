"""Searches and gradient guidance against slow references written from their specifications: one particle, one position
at a time, token for token."""

from __future__ import annotations

import math

import pytest
import torch
from support import REWARD_WORDS, FakeDenoiser, decode, load_classifier, make_sampler, new_canvas, save_reward, search
from torch import Tensor

from rws_cli.benchmarks.base import Example
from rws_cli.decoding.loop import SWEEP
from rws_cli.decoding.noise import mix, row_key, uniform
from rws_cli.decoding.prediction import FILL, GUMBEL, PURPOSES
from rws_cli.decoding.record import LAST, Cost
from rws_cli.decoding.statistics import Statistics
from rws_cli.errors import UsageError
from rws_cli.guidance.entrgi import ADAM, Entrgi, token_map
from rws_cli.rewards.classifier import Classifier
from rws_cli.search.base import RESAMPLE
from rws_cli.search.best_of_n import BestOfN
from rws_cli.search.fk import COMPLETION, Fk
from rws_cli.search.particle_gibbs import ParticleGibbs
from rws_cli.search.smc import SelfRewardingSmc

PROMPT, SEED, G = [1, 4, 2], 5, 6


class SumReward:
    statistics = Statistics(0.0, 1.0, 0.0, 1.0)

    def __call__(self, rows: list[int], tokens_BG: Tensor, filled: list[float], step: int) -> list[float]:
        return [worth(row) for row in tokens_BG.tolist()]


def worth(tokens: list[int]) -> float:
    return sum(token * (1 + n % 3) for n, token in enumerate(tokens)) / 40


def number(key: int, step: int, position: int, token: int) -> float:
    """The runner's uniform number, so that both draw the same."""
    return float(uniform(torch.tensor([key]), step, torch.tensor([position]), token + 1)[0, token])


def moved(key: int, by: int) -> int:
    return int(mix(torch.tensor([key]) + by)[0])


class Particle:
    """An answer under way; None is a mask. history: (step, position, token), in the order of commits."""

    def __init__(self) -> None:
        self.x: list[int | None] = [None] * G
        self.path = self.log_w = self.spent = self.total = 0.0
        self.most = -math.inf
        self.history: list[tuple[int, int, int]] = []

    def copy(self) -> Particle:
        other = Particle()
        vars(other).update(vars(self) | {"x": list(self.x), "history": list(self.history), "log_w": 0.0})
        return other


class SlowSearch:
    """One prompt. `rule`: the tokens that a step commits; by default the most confident one."""

    def __init__(self, model: FakeDenoiser, method, block: int) -> None:
        self.model, self.method, self.block, self.k = model, method, block, method.particles
        self.own = [row_key(SEED, "e" if j == 0 else f"e particle {j}") for j in range(self.k)]

    def laws(self, particle: Particle) -> dict[int, Tensor]:
        """p at each masked position."""
        ids = torch.tensor([PROMPT + [self.model.mask_id if t is None else t for t in particle.x]])
        logits = self.model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :]
        return {i: logits[i].softmax(-1) for i in range(G) if particle.x[i] is None}

    def draw(self, p: Tensor, key: int, step: int, position: int) -> int:
        scores = [
            float(p[t].log()) - math.log(-math.log(number(key, step, position, t))) if t != self.model.mask_id else -1e9
            for t in range(len(p))
        ]
        return max(range(len(p)), key=lambda t: scores[t])

    def weighted(self, particles: list[Particle], step: int, count: int) -> list[int]:
        """Multinomial: `count` draws of an index by weight."""
        top = max(one.log_w for one in particles)
        w = [math.exp(one.log_w - top) for one in particles]
        key, drawn = moved(self.keys[0], RESAMPLE), []
        for n in range(count):
            u, passed = number(key, step, 0, n) * sum(w), 0.0
            for j, share in enumerate(w):
                passed += share
                if u <= passed:
                    drawn.append(j)
                    break
        return drawn

    def resample(self, particles: list[Particle], step: int, followed) -> list[Particle]:
        drawn = self.weighted(particles, step, self.k)
        if followed:
            drawn[0] = 0
        return [particles[j].copy() for j in drawn]

    def estimate(self, particle: Particle, laws: dict[int, Tensor], key: int, step: int) -> float:
        """log mean exp(r / β) over completions."""
        m, values = self.method, []
        for n in range(m.completions):
            own = key if n == 0 else moved(key, n * COMPLETION)
            full = list(particle.x)
            for i, p in laws.items():
                legal = p.clone()
                legal[self.model.mask_id] = 0
                full[i] = int(legal.argmax()) if m.fill == "argmax" else self.draw(p, own, step * PURPOSES + FILL, i)
            values.append(math.exp(worth(full) / m.beta))
        return math.log(sum(values) / len(values))

    def sweep(self, n: int, followed: list[tuple[int, int, int]]) -> tuple[Particle, list[float]]:
        m = self.method
        self.keys = self.own if n == 0 else [moved(key, n * SWEEP) for key in self.own]
        particles = [Particle() for _ in range(self.k)]
        for step in range(G):
            inside = range(step // self.block * self.block, (step // self.block + 1) * self.block)
            if isinstance(m, Fk) and step and step % m.every == 0:
                for one, key in zip(particles, self.keys, strict=True):
                    r = self.estimate(one, self.laws(one), key, step)
                    one.most, one.total = max(one.most, r), one.total + r
                    g = {"difference": r - one.spent, "max": one.most, "sum": one.total}[m.potential]
                    one.spent += g
                    one.log_w += g
                particles = self.resample(particles, step, followed)
            for j, (one, key) in enumerate(zip(particles, self.keys, strict=True)):
                laws = {i: p for i, p in self.laws(one).items() if i in inside}
                token = {i: self.draw(p, key, step * PURPOSES + GUMBEL, i) for i, p in laws.items()}
                best = max(laws, key=lambda i: (float(laws[i][token[i]]), -i))
                log_p = float(laws[best][token[best]].log())
                one.path += log_p
                one.log_w += log_p if isinstance(m, SelfRewardingSmc) else 0.0
                if j == 0 and followed:
                    one.history = [event for event in followed if event[0] <= step]
                    one.x = [None] * G
                    for _, i, t in one.history:
                        one.x[i] = t
                else:
                    one.x[best] = token[best]
                    one.history.append((step, best, token[best]))
            if isinstance(m, SelfRewardingSmc) and step % self.block == self.block - 1:
                w = torch.tensor([one.log_w for one in particles], dtype=torch.float64).softmax(-1)
                if 1 / float((w**2).sum()) < m.ess * self.k:
                    particles = self.resample(particles, step - self.block + 1, followed)
        scores = [one.path if isinstance(m, SelfRewardingSmc) else worth(one.x) for one in particles]
        if isinstance(m, Fk):
            for one, score in zip(particles, scores, strict=True):
                one.log_w += score / m.beta - one.spent
        best_ends = isinstance(m, BestOfN) or m.ending == "best"
        chosen = max(range(self.k), key=lambda j: scores[j]) if best_ends else self.weighted(particles, LAST, 1)[0]
        return particles[chosen], scores

    def run(self) -> tuple[list[int], list[float], list[tuple[int, int, int]]]:
        followed: list[tuple[int, int, int]] = []
        for n in range(getattr(self.method, "sweeps", 1)):
            found, scores = self.sweep(n, followed)
            followed = found.history
        return found.x, scores, followed


METHODS = [
    BestOfN(kind="best_of_n", particles=4),
    SelfRewardingSmc(kind="smc", particles=4, ess=0.99, ending="best"),
    SelfRewardingSmc(kind="smc", particles=3, ess=0.5, ending="draw"),
    *(
        Fk(kind="fk", particles=4, beta=0.3, potential=p, every=e, completions=c, fill=f, ending=end)
        for p in ("difference", "max", "sum")
        for e, c, f, end in ((1, 1, "argmax", "best"), (2, 3, "sample", "draw"))
    ),
    *(
        ParticleGibbs(
            kind="particle_gibbs",
            particles=3,
            beta=0.3,
            potential="difference",
            every=2,
            completions=1,
            fill="argmax",
            ending=end,
            sweeps=3,
        )
        for end in ("best", "draw")
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, vars(m).values())))
@pytest.mark.parametrize("seed", range(2))
def test_a_search_is_its_specification(method, seed: int) -> None:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.4
    answer, scores, history = SlowSearch(model, method, 3).run()
    ids = ["e" if j == 0 else f"e particle {j}" for j in range(method.particles)]
    canvas = new_canvas([PROMPT] * len(ids), ids, G, model.mask_id, 0, SEED)
    found = search(model, canvas, make_sampler(G, block_length=3, temperature=1.0, search=method), SumReward())
    assert canvas.completion_BG[found.rows[0]].tolist() == answer
    assert found.scores[0] == pytest.approx(scores)
    trace = found.traces[0]
    assert list(zip(trace.step, trace.position, trace.token, strict=True)) == history


def test_smc_weights_count_only_what_was_committed_since_the_last_resampling() -> None:
    """The trap: weights of all masked positions, or kept after resampling, would choose other particles."""
    model = FakeDenoiser(seed=3)
    model.head *= 0.4
    resampled = 0
    for n in range(8):
        slow = SlowSearch(model, SelfRewardingSmc(kind="smc", particles=4, ess=1.0, ending="best"), 3)
        slow.own = [row_key(n, "e" if j == 0 else f"e particle {j}") for j in range(4)]
        answer, _, history = slow.run()
        ids = ["e", *(f"e particle {j}" for j in range(1, 4))]
        canvas = new_canvas([PROMPT] * 4, ids, G, model.mask_id, 0, n)
        settings = {"block_length": 3, "temperature": 1.0, "search": slow.method}
        found = search(model, canvas, make_sampler(G, **settings), SumReward())
        assert canvas.completion_BG[found.rows[0]].tolist() == answer
        plain = new_canvas([PROMPT] * 4, ids, G, model.mask_id, 0, n)
        decode(model, plain, make_sampler(G, block_length=3, temperature=1.0))
        resampled += canvas.completion_BG.tolist() != plain.completion_BG.tolist()
        assert len(history) == G
    assert resampled


# --- EntRGi -------------------------------------------------------------------------------------------------------

WORDS = [f"w{n}" for n in range(10)] + ["<end>", "[mask]"]
"""The denoiser's vocabulary: all but the mask are words of the reward model, with other ids there."""
SETTINGS = Entrgi(kind="entrgi", steps=3, rate=0.5, temperature=0.7)


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens whose mass reaches top_p, renormalized."""
    kept, mass = torch.zeros_like(p), 0.0
    for token in sorted(range(len(p)), key=lambda t: -float(p[t])):
        if mass < top_p:
            kept[token] = p[token]
        mass += float(p[token])
    return kept / kept.sum()


def draw(p: Tensor, model: FakeDenoiser, key: int, step: int, purpose: int, position: int) -> int:
    """A token drawn from p with the runner's own noise, the mask apart."""
    u = [number(key, step * PURPOSES + purpose, position, t) for t in range(len(p))]
    noisy = p.log() - torch.tensor([math.log(-math.log(v)) for v in u])
    noisy[model.mask_id] = -torch.inf
    return int(noisy.argmax())


def slow_entrgi(model: FakeDenoiser, reward: Classifier, temperature: float, top_p: float) -> list[int]:
    """One row, its positions one by one, as the authors' code has it: the weight of the drawn token from softmax(z), the
    token drawn anew at each step of Adam, and positions by the entropy of the logits that were not moved."""
    net, key, tau = reward.model, row_key(SEED, "e"), SETTINGS.temperature
    table = net.get_input_embeddings().weight.detach()
    known = [v for v, word in enumerate(WORDS) if word in REWARD_WORDS]
    theirs = {v: REWARD_WORDS.index(WORDS[v]) for v in known}
    around = [[REWARD_WORDS.index(w) for w in text.split()] for text in ("<user> w1 w2 <end> <bot>", "<end>")]
    x: list[int | None] = [None] * G
    for step in range(G):
        ids = torch.tensor([PROMPT + [model.mask_id if t is None else t for t in x]])
        logits = model.full_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(PROMPT) :].float()
        masked = [i for i in range(G) if x[i] is None]
        z = {i: logits[i].clone() for i in masked}
        first, second = ({i: torch.zeros_like(z[i]) for i in masked} for _ in range(2))
        for t in range(1, SETTINGS.steps + 1):
            leaves = {i: z[i].clone().requires_grad_() for i in masked}
            own = key if t == 1 else int(mix(torch.tensor([key]) + (t - 1) * ADAM))
            parts = [table[around[0]]]
            for i in range(G):
                if x[i] is None:
                    q = (leaves[i][known] / tau).softmax(-1)
                    soft = sum(q[n] * table[theirs[v]] for n, v in enumerate(known))
                    drawn = draw(nucleus((z[i].double() / tau).softmax(-1), top_p), model, own, step, FILL, i)
                    hard = table[theirs[drawn]] if drawn in theirs else soft
                    p = z[i].double().softmax(-1)
                    w = float(-(p * p.log()).sum()) / math.log(len(p))
                    parts.append((soft + (w * (hard - soft)).detach())[None])
                elif x[i] in model.eos_ids:
                    break
                else:
                    parts.append(table[[theirs[x[i]]]])
            states = net.model(inputs_embeds=torch.cat([*parts, table[around[1]]])[None]).last_hidden_state
            (-net.score(states[0, -1])[0]).backward()
            for i in masked:  # Adam, written out
                g = leaves[i].grad if leaves[i].grad is not None else torch.zeros_like(z[i])
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g * g
                root = (second[i] / (1 - 0.999**t)).sqrt() + 1e-8
                z[i] = z[i] - SETTINGS.rate * first[i] / (1 - 0.9**t) / root
        entropies, tokens = {}, {}
        for i in masked:
            unmoved = (logits[i].double() / (temperature or 1.0)).softmax(-1)
            entropies[i] = float(-(unmoved * unmoved.log()).nansum())
            if temperature:
                p = nucleus((z[i].double() / temperature).softmax(-1), top_p)
                tokens[i] = draw(p, model, key, step, GUMBEL, i)
            else:
                tokens[i] = int(z[i][: model.mask_id].argmax())
        best = min(masked, key=lambda i: (tokens[i] in model.eos_ids, entropies[i], i))
        x[best] = tokens[best]
    return [t for t in x if t is not None]


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Classifier:

    folder = save_reward(tmp_path_factory.mktemp("reward"))
    found = load_classifier(folder, batch_size=8)
    found.model.score.weight.data *= 20  # gradients that are worth following
    return found


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (0.7, 0.95)])
@pytest.mark.parametrize("seed", range(2))
def test_entrgi_is_its_specification(reward: Classifier, temperature: float, top_p: float, seed: int) -> None:
    model = FakeDenoiser(seed=seed)
    model.head *= 0.4
    expected = slow_entrgi(model, reward, temperature, top_p)
    settings = {"order": "entropy", "temperature": temperature, "top_p": top_p, "eos": "suppress"}
    sampler = make_sampler(G, guidance=SETTINGS, **settings)
    vocabulary = {word: v for v, word in enumerate(WORDS)}
    map_V = token_map(vocabulary, reward.tokenizer.get_vocab(), model.vocabulary)
    costs = [Cost(), Cost()]
    SETTINGS.top_p, SETTINGS.reward = top_p, reward
    SETTINGS.use(map_V, model.eos_ids)
    scorer = SumReward()
    scorer.examples = [Example("e", "w1 w2", ""), Example("f", "w3", "")]
    canvas = new_canvas([PROMPT, PROMPT], ["e", "f"], G, model.mask_id, 0, SEED)
    decode(model, canvas, sampler, scorer, costs=costs)
    assert canvas.completion_BG[0].tolist() == expected
    plain = new_canvas([PROMPT], ["e"], G, model.mask_id, 0, SEED)
    decode(model, plain, make_sampler(G, **settings))
    assert seed or plain.completion_BG[0].tolist() != expected  # it was worth it
    assert [cost.reward_calls for cost in costs] == [G * SETTINGS.steps] * 2
    assert costs[0].reward_tokens % 3 == 0  # a gradient counts as three passes


def test_a_reward_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="only 20% of"):
        token_map({f"w{n}": n for n in range(10)}, {"w1": 5, "w2": 6}, 10)


def test_the_token_map_goes_by_how_tokens_are_written() -> None:
    found = token_map({"a": 0, "b": 1, "c": 2}, {"c": 0, "a": 7}, 4)
    assert found.tolist() == [7, -1, 0, -1]
