"""The settings of a run: what may be set, of which type and within which range. Defaults live in conf/;
one that stands here turns its setting off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rws_cli.part import setting

DTYPES = ("auto", "float32", "bfloat16", "float16")


# --- models -------------------------------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """Where weights are and how they are loaded."""

    name: str
    kind: str
    path: str = setting('a folder, "bundled:NAME", or a name on the Hugging Face hub')
    revision: str | None = setting("branch, tag or commit on the hub; null: the newest")
    dtype: str = setting("of the weights; auto: as stored on a GPU, float32 on a CPU", choices=DTYPES)
    device: str = setting("auto (cuda where there is one, else cpu), cpu, cuda or cuda:N")
    device_map: str | None = setting("e.g. auto, to spread a large model over devices; null: all on `device`")
    attention: str = setting("the kernel of attention", choices=("sdpa", "eager", "flash_attention_2"))
    trust_remote_code: bool = setting("run the checkpoint's own Python; `revision` must then be a full commit hash")
    quantization: str = setting("weights in 8 or 4 bits, by bitsandbytes", choices=("none", "8bit", "4bit"))


@dataclass
class Model(Checkpoint):
    """A masked diffusion model."""

    kind: str = setting(
        "the family, which says how weights and logits are read", choices=("llada", "dream", "masked_lm"), role="model"
    )
    mask_token_id: int | None = setting("the mask's token id; null: as the checkpoint says", min=0)
    chat_template: bool = setting("whether prompts go through the chat template; false: as they are, for base models")

    @property
    def native(self) -> bool:
        return self.kind in ("llada", "dream")

    @property
    def without_shadows(self) -> str | None:
        if self.kind == "dream":
            return "logits are read one place early"
        return None if self.kind == "llada" else "forward pass knows no shadows"


# --- rewards ------------------------------------------------------------------------------------------------------


@dataclass
class NoReward:
    name: str
    kind: str


@dataclass
class ClassifierReward(Checkpoint):
    """A reward model: any AutoModelForSequenceClassification with one label, or what a checkpoint's own Python makes."""

    auto_class: str = setting(
        "the class of transformers that loads it", choices=("AutoModelForSequenceClassification", "AutoModel")
    )
    needs_remote_code: bool = setting("whether only the checkpoint's own Python can load it")
    score_from: str = setting(
        "where the score is in what it returns: its field logits or score, or the whole output",
        choices=("logits", "score", "output"),
    )
    template: str | None = setting("a chat template (Jinja) in place of the tokenizer's; null: the tokenizer's")
    batch_size: int = setting("texts scored together", min=1)
    statistics: str | None = setting(
        "a JSON file with the score's mean, std, min and max; null: normalization.json of the checkpoint"
    )
    max_length: int | None = setting("longer texts are an error, in tokens; null: the model's own limit", min=1)

    gradients = True


@dataclass
class VerifierReward:
    """The benchmark's own partial credit: an oracle, for ablations only."""

    name: str
    kind: str


@dataclass
class ShuffledReward:
    """Scores of other examples, drawn from those stored for the same fill level in `statistics`: a control."""

    name: str
    kind: str
    statistics: str = setting("the checkpoint whose normalization.json holds scores by fill level")


@dataclass
class ConstantReward:
    name: str
    kind: str
    value: float = setting("the score")


@dataclass
class CompositeReward:
    """A weighted sum of rewards, each normalized by its own statistics."""

    name: str
    kind: str
    parts: dict[str, Any] = setting(
        "the rewards that are summed, by a name of yours; another: reward@reward.parts.NAME=…", role="reward"
    )
    weights: dict[str, float] = setting("a number for each of the parts")
    statistics: str | None = setting("of the sum, a JSON file; null: what rws calibrate found")


@dataclass
class ProcessReward:
    """A reward given to an answer as far as the end of each of its parts, and joined to one score."""

    name: str
    kind: str
    part: Any = setting("the reward that scores each part; another: reward@reward.part=…", role="reward")
    parts: str = setting(
        "what ends a part: step (a line of text) or block (sampler.block_length tokens)", choices=("step", "block")
    )
    join: str = setting("how scores become one: their mean, the least, or the last", choices=("mean", "min", "last"))
    statistics: str | None = setting("of the joined score, a JSON file; null: what rws calibrate found")


REWARDS = {
    "none": NoReward,
    "classifier": ClassifierReward,
    "verifier": VerifierReward,
    "shuffled": ShuffledReward,
    "constant": ConstantReward,
    "composite": CompositeReward,
    "process": ProcessReward,
}


# --- samplers -----------------------------------------------------------------------------------------------------


@dataclass
class Sampler:
    """How a response is decoded. One of steps and tokens_per_step counts; both null is one token a step."""

    name: str
    order: Any = setting("which open positions come first; an order's own settings stand at sampler.NAME", role="order")
    gen_length: int = setting("length of the answer, in tokens", min=1)
    block_length: int = setting("tokens of a block; blocks are decoded from left to right", min=1)
    steps: int | None = setting("steps over the whole answer; null: by tokens_per_step", min=1)
    tokens_per_step: int | None = setting("tokens committed a step; null with steps null: one", min=1)
    order_temperature: float = setting(
        "0: the highest scores; above: positions drawn from softmax(score / this)", min=0.0
    )
    temperature: float = setting("of tokens; 0: the likeliest", min=0.0)
    top_p: float = setting("tokens are drawn from the likeliest whose mass reaches this", above=0.0, max=1.0)
    cfg_scale: float = setting("w of classifier-free guidance; 0: none, above: twice the passes", min=0.0)
    confidence: str = setting(
        "what orders read: the untempered softmax (raw), the one that tokens are drawn from (tempered), or the untempered "
        "one in the model's dtype, ties and all (model_dtype)",
        choices=("raw", "tempered", "model_dtype"),
    )
    eos: str = setting(
        "suppress: end tokens last; stop: done once one has nothing masked before it; LLaDA's confidence_eos_eot_inf: end "
        "tokens last, and in no confidence; LLaDA's logits_eos_inf: never the end of text",
        choices=("none", "suppress", "stop", "confidence_eos_eot_inf", "logits_eos_inf"),
    )
    guidance: Any = setting("what changes logits before the order reads them; see rws list guidance", role="guidance")
    schedule: Any = setting("how many positions a step commits", role="schedule")
    review: Any = setting("what looks at finished blocks again", role="remasking")
    search: Any = setting("how several answers to a prompt compete; see rws list search", role="search")
    ties: str = setting(
        "which of equal scores comes first: the leftmost position, or the token of higher untempered probability",
        "leftmost",
        choices=("leftmost", "probability"),
    )

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that a sampler is made of."""
        return {name: getattr(self, name) for name in ("order", "schedule", "guidance", "review", "search")}

    @property
    def draws(self) -> bool:
        """Whether two decodings of one prompt can differ."""
        return self.temperature > 0 or self.order_temperature > 0 or self.order.draws or self.schedule.draws

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        if self.steps is not None:
            return self.steps // self.blocks
        return -(-self.block_length // (self.tokens_per_step or 1))


# --- judges of a sweep's runs -------------------------------------------------------------------------------------


@dataclass
class NoJudge:
    name: str
    kind: str


@dataclass
class RewardJudge:
    """A reward; the answer with the higher score is better."""

    name: str
    kind: str
    reward: Any = setting("what scores the answers; another: reward@judge.reward=…", role="reward")
    margin: float = setting("scores this close are a tie", min=0.0)


@dataclass
class CausalJudge:
    """A causal language model on this machine; see judges/local.py."""

    name: str
    kind: str
    path: str = setting("a folder, a name on the hub, or package:NAME")
    file: str | None = setting("a GGUF file in it; null: safetensors")
    revision: str | None = setting("branch, tag or commit on the hub; null: the newest")
    dtype: str = setting("of the weights; auto: as stored on a GPU, float32 on a CPU", choices=DTYPES)
    device: str = setting("auto (cuda where there is one, else cpu), cpu, cuda or cuda:N")
    batch_size: int = setting("questions asked together", min=1)
    margin: float = setting("log-probabilities this close are a tie", min=0.0)
    template: str = setting("what it is asked, with {question}, {answer_a} and {answer_b}")


@dataclass
class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint; see judges/endpoint.py."""

    name: str
    kind: str
    model: str = setting("the model's name at the endpoint")
    base_url: str | None = setting("the endpoint, e.g. http://localhost:8000/v1; null: OpenAI's")
    key_env: str = setting("the environment variable that holds the key")
    temperature: float = setting("of its replies", min=0.0)
    max_tokens: int = setting("the longest reply", min=1)
    parallel: int = setting("requests at a time", min=1)
    requests_per_minute: float | None = setting(
        "requests started in a minute, at most; null: no limit of ours", above=0.0
    )
    retries: int = setting("of each request, waiting longer each time", min=0)
    timeout_seconds: float = setting("how long a reply may take", above=0.0)
    cache: str | None = setting("a folder of replies; null: rws/judge in the user's cache")
    dollars_per_million_in: float | None = setting("price of a million tokens asked; null: not known", min=0.0)
    dollars_per_million_out: float | None = setting("price of a million tokens replied; null: not known", min=0.0)
    max_dollars: float = setting("refuse what may cost more", min=0.0)
    template: str = setting("what it is asked, with {question}, {answer_a} and {answer_b}")


JUDGES = {"none": NoJudge, "reward": RewardJudge, "causal": CausalJudge, "endpoint": EndpointJudge}


@dataclass
class Table:
    """What rws table shows of a sweep."""

    title: str = setting("its heading")
    columns: list[str] = setting("measures, one a column")
    note: str = setting("a sentence below it", default="")
    published: dict[str, dict[str, Any]] = setting(
        "label → column → what a paper says, as it says it", default_factory=dict
    )


@dataclass
class Runtime:
    """What may change without changing a token; but a cache is approximate, see models/cache.py."""

    batch_size: int | None = setting(
        "rows decoded together; null: by the size of their logits, halved when memory runs out", min=1
    )
    threads: int | None = setting("of the CPU; null: as torch chooses", min=1)
    compile: bool = setting("compile the model (torch.compile): a minute at the start, then faster steps")
    deterministic: bool = setting("decode each example alone, so that rounding cannot depend on its batch; slower")
    cache: str = setting(
        "keys and values kept between steps: approximate, faster where an answer has several blocks",
        choices=("none", "prefix", "dual"),
    )
    cache_refresh: int | None = setting(
        "a row's passes from one through its whole sequence to the next; null: one a block", min=1
    )
    backend: str = setting(
        "who decodes: this process, several on this machine, several that share one model, or a Ray cluster",
        choices=("here", "processes", "tensor_parallel", "ray"),
    )
    workers: int | None = setting(
        "copies, or parts, of the model; null: one a GPU, without GPUs one a core, at most 4, and 2 parts", min=1
    )
    address: str | None = setting("of a Ray cluster, as ray.init takes it; null: one of its own on this machine")
    tracker: str = setting(
        "a library that runs are also logged with; where to is what its own environment variables say",
        choices=("none", "wandb", "mlflow", "tensorboard"),
    )


@dataclass
class Config:
    """All settings of a run."""

    seed: int = setting("of decoding; every random number comes from (seed, example, step)")
    output: str = setting("the folder of runs: <output>/<benchmark>/<model>-<sampler>/vNNN")
    label: str | None = setting("how tables call this run; null: by its sampler, and what else sets it apart")
    table: Table | None = setting("what rws table shows of a sweep")
    draw: str | None = setting("a picture of a sweep, at its end", choices=("pareto",))
    trust_remote_code: bool = setting(
        "let presets that need it run the Python of their checkpoint, at the commit in pins"
    )
    pins: dict[str, str | None] = setting("preset → the full commit hash whose Python you trust")
    model: Model = setting("the masked diffusion model")
    reward: Any = setting("what scores whole and partly decoded answers")
    sampler: Sampler = setting("how a response is decoded")
    benchmark: Any = setting("what is asked, and how answers are marked")
    metric: dict[str, Any] = setting("measures of texts, e.g. metric=[length,diversity]", role="metric")
    judge: Any = setting("who says which of two answers is better")
    runtime: Runtime = setting("what may change without changing a token")
    objective: str | None = setting(
        "what a job returns to an optimizing sweeper: a number's key in metrics.json, such as accuracy", default=None
    )  # runs of before have none
