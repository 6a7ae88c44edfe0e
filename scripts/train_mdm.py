"""Train the bundled masked diffusion model (both benchmarks, one model) and write it in LLaDA's checkpoint format.

    python scripts/train_mdm.py            # about half an hour on two cores; --help for the rest

The objective is LLaDA's (arXiv 2502.09992, eq. 3) with the number of masked positions drawn uniformly from 1 to the
length of the answer, which weighs every mask count alike and is the same bound with less variance. The learning rate
rises over a warm-up and falls linearly toward zero at `--steps`, but training ends at `--stop`: a model trained to the
end solves most sudokus in any order, and a benchmark of decoding orders wants one for which order matters. `--resume`
continues from the state file kept beside the output.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import tiny_tokenizer
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rws_cli.benchmarks import sudoku
from rws_cli.benchmarks.arithmetic import Arithmetic
from rws_cli.benchmarks.sudoku import Sudoku

LENGTHS = {"sudoku": 36, "arithmetic": 20}
WIDTHS = {"sudoku": 76, "arithmetic": 48}
"""Tokens of the longest prompt and its answer; one width a task, so that each compiles once."""
MAKERS = {"sudoku": Sudoku().make, "arithmetic": Arithmetic().make}
LLADA_NAMES = {
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
    "model.layers.": "model.transformer.blocks.",
    "self_attn.o_proj": "attn_out",
    "self_attn.": "",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "post_attention_layernorm": "ff_norm",
    "input_layernorm": "attn_norm",
}


def make_model(vocabulary: int, args: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=args.width,
        intermediate_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": args.rope_theta},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
    )
    config.is_causal = False
    return LlamaForCausalLM._from_config(config, attn_implementation="eager")  # trains faster than SDPA on a CPU


def name_cells(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start each sudoku cell's embedding as row + column + box + value, so that cells share what they share."""
    embedding = model.get_input_embeddings().weight
    parts: dict[str, torch.Tensor] = {}

    def part(name: str) -> torch.Tensor:
        return parts.setdefault(name, torch.randn(embedding.shape[1]) * 0.02)

    with torch.no_grad():
        for cell, name in enumerate(sudoku.NAMES):
            for value in "123456" + sudoku.BLANK:
                box = f"box {cell // 12} {cell % 6 // 3}"
                token = tokenizer.convert_tokens_to_ids(f" {name}={value}")
                embedding[token] = sum(part(p) for p in (f"row {name[0]}", f"column {name[1]}", box, f"is {value}"))


def encode(tokenizer: PreTrainedTokenizerFast, task: str, pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, int]:
    """Token ids (B, WIDTHS[task]), padded left with -1, answers last and padded with end tokens; the answers' length."""
    length = LENGTHS[task]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
        for p, _ in pairs
    ]
    prompt_ids = tokenizer(prompts, add_special_tokens=False).input_ids
    answer_ids = tokenizer([a for _, a in pairs], add_special_tokens=False).input_ids
    rows = [p + a + [tokenizer.eos_token_id] * (length - len(a)) for p, a in zip(prompt_ids, answer_ids, strict=True)]
    return torch.tensor([[-1] * (WIDTHS[task] - len(row)) + row for row in rows]), length


def mask_some(answers: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """In each row (B, G), hide k positions at random, k uniform on 1 .. G."""
    k = torch.randint(1, answers.shape[1] + 1, (len(answers), 1), generator=generator)
    return torch.rand(answers.shape, generator=generator).argsort(1).argsort(1) < k


def losses(backbone, head, ids, hidden, mask_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over rows of the mean cross-entropy over a row's hidden positions (B, G), and the accuracy likewise."""
    length = hidden.shape[1]
    target = ids[:, -length:]
    seen = torch.cat([ids[:, :-length].clamp(min=0), target.masked_fill(hidden, mask_id)], 1)
    states = backbone(input_ids=seen, attention_mask=(ids >= 0).long()).last_hidden_state[:, -length:]
    logits = head(states).float()
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    share = hidden / hidden.sum(1, keepdim=True)
    return (loss * share).sum(1).mean(), ((logits.argmax(-1) == target) * share).sum(1).mean()


@torch.inference_mode()
def solved(model, ids, length: int, mask_id: int, order: str) -> float:
    """The share of rows that greedy decoding gets whole, a token a step in `order` (confidence or random)."""
    generator = torch.Generator().manual_seed(0)
    answers = torch.full_like(ids[:, -length:], mask_id)
    for _ in range(length):
        canvas = torch.cat([ids[:, :-length].clamp(min=0), answers], 1)
        logits = model(input_ids=canvas, attention_mask=(ids >= 0).long()).logits[:, -length:].float()
        logits[..., mask_id] = -torch.inf
        confidence, token = logits.softmax(-1).max(-1)
        if order == "random":
            confidence = torch.rand(confidence.shape, generator=generator)
        surest = confidence.masked_fill(answers != mask_id, -1.0).argmax(1, keepdim=True)
        answers = answers.scatter(1, surest, token.gather(1, surest))
    return float((answers == ids[:, -length:]).all(1).float().mean())


def make_optimizers(model: LlamaForCausalLM, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, head and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    return [
        torch.optim.Muon(matrices, lr=args.muon_lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def save_llada(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The checkpoint as LLaDA's are: its key names, config.json fields and tokenizer files; weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in LLADA_NAMES.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor.to(torch.bfloat16).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ours = model.config
    config = {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "activation_type": "silu",
        "d_model": ours.hidden_size, "mlp_hidden_size": ours.intermediate_size, "n_layers": ours.num_hidden_layers,
        "n_heads": ours.num_attention_heads, "n_kv_heads": ours.num_key_value_heads,
        "max_sequence_length": ours.max_position_embeddings, "rope": True,
        "rope_theta": ours.rope_parameters["rope_theta"], "layer_norm_type": "rms", "rms_norm_eps": ours.rms_norm_eps,
        "include_bias": False, "include_qkv_bias": False, "weight_tying": False, "alibi": False,
        "vocab_size": ours.vocab_size, "embedding_size": ours.vocab_size, "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "use_cache": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("rws_cli/assets/tiny-mdm"))
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--stop", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=48, help="sudokus a step")
    parser.add_argument("--arithmetic-batch", type=int, default=48, help="word problems a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--muon-lr", type=float, default=5e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--rope-theta", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--eval-every", type=int, default=500)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = tiny_tokenizer.build()
    model = make_model(len(tokenizer), args)
    name_cells(model, tokenizer)
    optimizers = make_optimizers(model, args)
    held_out = {task: [make(random.Random(f"curve {i}"), "test") for i in range(96)] for task, make in MAKERS.items()}
    curve = args.out / "curve.jsonl"
    state_file = args.out / "state.pt"
    args.out.mkdir(parents=True, exist_ok=True)
    first = 0
    if args.resume:
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
        kept = [line for line in curve.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= first]
        curve.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    else:
        curve.write_text("", encoding="utf-8")
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    backbone = torch.compile(model.model, dynamic=False)
    sizes = {"sudoku": args.batch, "arithmetic": args.arithmetic_batch}
    started = time.monotonic()
    recent: list[list[tuple[float, float]]] = []
    for step in range(first, args.stop):
        scale = min((step + 1) / args.warmup, 1.0, 1 - step / args.steps)
        for optimizer, lr in zip(optimizers, (args.muon_lr, args.lr), strict=True):
            optimizer.param_groups[0]["lr"] = lr * scale
        means = []
        for task, make in MAKERS.items():
            pairs = [make(random.Random(f"train {args.seed} {step} {i}"), "train") for i in range(sizes[task])]
            ids, length = encode(tokenizer, task, pairs)
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            hidden = mask_some(ids[:, -length:], generator)
            with torch.autocast("cpu", torch.bfloat16):
                loss, accuracy = losses(backbone, model.lm_head, ids, hidden, tokenizer.mask_token_id)
            loss.backward()
            means.append((float(loss.detach()), float(accuracy)))
        recent.append(means)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % args.log_every == 0 or done == args.stop:
            row: dict[str, float] = {"step": done, "seconds": round(time.monotonic() - started, 1)}
            for n, task in enumerate(MAKERS):
                row[f"{task}_loss"], row[f"{task}_accuracy"] = (
                    round(sum(means[n][i] for means in recent) / len(recent), 4) for i in (0, 1)
                )
            recent.clear()
            if done % args.eval_every == 0 or done == args.stop:
                for task in MAKERS:
                    ids, length = encode(tokenizer, task, held_out[task])
                    for order in ("confidence", "random"):
                        row[f"{task}_{order}"] = round(solved(model, ids, length, tokenizer.mask_token_id, order), 4)
                torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                            "step": done}, state_file)  # fmt: skip
                save_llada(model, tokenizer, args.out)
            with curve.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
