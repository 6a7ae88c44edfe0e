"""The decoding procedures of other projects, from checkouts of theirs in a folder that the user names.

    git clone https://github.com/ML-GSAI/LLaDA PEERS/LLaDA
    git clone https://github.com/NVlabs/Fast-dLLM PEERS/Fast-dLLM      # needs einops

LLaDA's generate.py calls our model. Fast-dLLM's procedures call its own model class, with our weights.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from speed import Case, Procedure, all_logits, padded

from rws_cli.models.base import Denoiser

FROM_LLAMA = {
    "transformer.wte": "embed_tokens", "transformer.ln_f": "norm", "transformer.blocks": "layers",
    "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj", "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm",
}  # fmt: skip
"""Names of Fast-dLLM's weights → those of transformers' Llama."""


def peers(folder: Path, denoiser: Denoiser, batch: int) -> dict[str, Procedure]:
    """The procedures that fit the model: name → procedure. Fast-dLLM's take one prompt and a model of LLaDA's kind."""
    generate = module(folder / "LLaDA" / "generate.py", "llada_generate").generate
    procedures = {"LLaDA generate.py": llada(generate, denoiser)}
    if batch == 1 and denoiser.model.config.model_type == "llama":
        base = next(path.parent for path in sorted((folder / "Fast-dLLM").rglob("llada/generate.py")))
        sys.path.insert(0, str(base))
        theirs = module(base / "generate.py", "fast_dllm_generate")
        model = fast_dllm_model(theirs.LLaDAModelLM, denoiser)
        for kind in ("prefix", "dual"):
            function = getattr(theirs, f"generate_with_{kind}_cache")
            procedures[f"Fast-dLLM {kind}"] = fast_dllm(function, model, denoiser)
    return procedures


def module(file: Path, name: str) -> Any:
    if not file.is_file():
        raise SystemExit(f"--peers: {file} is missing; scripts/peers.py says what the folder holds.")
    spec: Any = importlib.util.spec_from_file_location(name, file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def llada(generate: Any, denoiser: Denoiser) -> Procedure:
    logits_of = all_logits(denoiser)

    class Model:
        device = denoiser.device

        def __call__(self, x: Any, attention_mask: Any) -> Any:
            return SimpleNamespace(logits=logits_of(x, attention_mask))

    def decode(case: Case, prompts: list[list[int]]) -> list[list[int]]:
        x, seen = padded(denoiser, prompts, case.gen)
        x, seen = x[:, : -case.gen], seen[:, : -case.gen]
        sizes = {"steps": case.steps, "gen_length": case.gen, "block_length": case.block, "mask_id": denoiser.mask_id}
        return generate(Model(), x, attention_mask=seen, **sizes)[:, -case.gen :].tolist()

    return decode


def fast_dllm(function: Any, model: Any, denoiser: Denoiser) -> Procedure:
    def decode(case: Case, prompts: list[list[int]]) -> list[list[int]]:
        prompt = torch.tensor(prompts, device=denoiser.device)
        sizes = {"steps": case.steps, "gen_length": case.gen, "block_length": case.block, "mask_id": denoiser.mask_id}
        return function(model, prompt, **sizes)[0][:, -case.gen :].tolist()

    return decode


def fast_dllm_model(model_class: Any, denoiser: Denoiser) -> Any:
    """Their model with the weights of ours."""
    ours = denoiser.model
    c = ours.config
    config = model_class.config_class(
        d_model=c.hidden_size, n_heads=c.num_attention_heads, n_kv_heads=c.num_key_value_heads,
        n_layers=1, mlp_hidden_size=c.intermediate_size, vocab_size=c.vocab_size,
        embedding_size=c.vocab_size, max_sequence_length=c.max_position_embeddings, block_type="llama",
        activation_type="silu", layer_norm_type="rms", rms_norm_eps=c.rms_norm_eps, rope=True, rope_full_precision=True,
        rope_theta=c.rope_parameters["rope_theta"], include_bias=False, include_qkv_bias=False,
        bias_for_layer_norm=False, attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0,
        weight_tying=False, input_emb_norm=False, attention_layer_norm=False, alibi=False, multi_query_attention=None,
        scale_logits=False, flash_attention=False, mask_token_id=denoiser.mask_id, eos_token_id=0, pad_token_id=0,
        init_device="cpu",
    )  # fmt: skip
    config.use_cache = False
    theirs = model_class(config).eval().to("meta")
    transformer = theirs.model.transformer
    transformer.blocks = torch.nn.ModuleList(copy.deepcopy(transformer.blocks[0]) for _ in range(c.num_hidden_layers))
    theirs.config.n_layers = theirs.model.config.n_layers = c.num_hidden_layers
    llama = dict(ours.model.named_parameters(remove_duplicate=False)) | {"lm_head.weight": ours.lm_head.weight}
    weights = {name: llama[llama_name(name)] for name in theirs.state_dict()}
    theirs.load_state_dict(weights, assign=True)
    return theirs


def llama_name(name: str) -> str:
    name = name.removeprefix("model.")
    if name == "transformer.ff_out.weight":
        return "lm_head.weight"
    for theirs, ours in FROM_LLAMA.items():
        name = name.replace(theirs, ours, 1)
    return name
