"""A pretend accelerator: tensors that claim to be on another device, and hold their values on the CPU.

It has two indices. As on a GPU, an operation on tensors of two devices raises, and the host waits where it reads a value,
moves one to or from the host, or asks for a shape that depends on values. Waits are counted, with their lines in rws_cli. Values are those of the CPU. No time is
measured. As a script it decodes with every sampler on it, and prints what test_waits.py asserts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
READS_VALUES = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "is_nonzero"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"_to_copy", "copy_"}
WAITS: Counter[str] = Counter()
"""By kind and line."""
cpu_tensor = torch.tensor


class Far(Tensor):
    """A tensor of the device; `near` holds its values."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor, index: int = 0) -> Far:
        far = Tensor._make_wrapper_subclass(
            cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype, device=torch.device(NAME, index),
            requires_grad=near.requires_grad,
        )  # fmt: skip
        far.near = near
        return far

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(operation, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.near})"

    def tolist(self) -> Any:
        waited("tolist")
        return self.near.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("a tensor of the device has no numpy array")

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(tensors_for_lists(index, self.device))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(tensors_for_lists(index, self.device), value)


def tensors_for_lists(index: Any, device: torch.device) -> Any:
    """An index whose lists are tensors of the device, as torch makes them for a real one."""
    if isinstance(index, tuple):
        return tuple(tensors_for_lists(one, device) for one in index)
    return cpu_tensor(index).to(device) if isinstance(index, list) else index


def waited(kind: str) -> None:
    frame = sys._getframe()
    while frame.f_back and "/rws_cli/" not in frame.f_code.co_filename:
        frame = frame.f_back
    WAITS[f"{kind} {frame.f_code.co_filename.rpartition('rws_cli/')[2]}:{frame.f_lineno}"] += 1


def perform(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what was asked of the device. Raises RuntimeError where devices are mixed."""
    name = operation._schema.name.partition("::")[2]
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    near = [x for x in tensors if not isinstance(x, Far)]
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if far and near and name not in COPIES:
        indices = {id(x) for x in args[1] if x is not None} if name in INDEXES else set()
        if not isinstance(args[0], Far) or any(x.dim() and id(x) not in indices for x in near):
            raise RuntimeError(f"{operation} has tensors of two devices")
    if len({x.device for x in far}) > 1 and name not in COPIES:
        raise RuntimeError(f"{operation} has tensors of two devices")
    if far and name in READS_VALUES:
        waited(name)
    if far and name in INDEXES:
        if any(x is not None and x.dtype == torch.bool for x in args[1]):
            waited("boolean index")
        if any(x is not None and not isinstance(x, Far) for x in args[1]):
            waited("index from the host")
    moves = (
        (target is not None and (target.type == NAME) != bool(far))
        if name == "_to_copy"
        else name == "copy_" and near and far
    )
    if moves:
        waited("copy")
    args_near, kwargs_near = tree_map(on_cpu, (args, kwargs))
    if operation._overloadname == "Tensor":  # torch would pass a large int on as a float
        args_near = tuple(cpu_tensor(x) if isinstance(x, int) and abs(x) > 1 << 53 else x for x in args_near)
    found = operation(*args_near, **kwargs_near)
    if any(x.alias_info and x.alias_info.is_write for x in operation._schema.returns):
        return kwargs.get("out", args[0])
    place = target or (far[0].device if far else torch.device("cpu"))
    if place.type != NAME:
        return found
    return tree_map(lambda x: Far(x, place.index or 0) if isinstance(x, Tensor) else x, found)


def on_cpu(x: Any) -> Any:
    if isinstance(x, Far):
        return x.near
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


class Factories(TorchDispatchMode):
    """Lets functions that make tensors know the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return perform(operation, args, kwargs or {})


@contextmanager
def device() -> Iterator[None]:
    """Within it, torch.tensor and factories take the pretend device."""

    def tensor(values: Any, *, device: Any = None, **more: Any) -> Tensor:
        made = cpu_tensor(values, **more)
        return made if device is None else made.to(device)

    torch.tensor = tensor
    try:
        with Factories():
            yield
    finally:
        torch.tensor = cpu_tensor


def move(module: torch.nn.Module, place: str) -> None:
    """Weights and buffers to a device."""
    with device():
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = torch.nn.Parameter(weight.detach().to(place), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = buffer.to(place)


def install() -> None:
    """Register the device for this process, which is to end soon: loaders look for accelerators."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)


def without_inference_mode(mode: Any = True) -> Any:
    """In place of torch.inference_mode, whose tensors have no version counter; wrapped ones need it."""
    if callable(mode):
        return torch.no_grad()(mode)
    return torch.no_grad() if mode else torch.enable_grad()


def with_blocks(components: Any, blocks: str) -> Any:
    """The components with a random model that attends by blocks. blocks: size, anchor, whether a first token is alone."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rws_cli.models.base import bidirectional_forward
    from rws_cli.models.causal import causal_forward
    from rws_cli.models.topology import Topology

    size, anchor, first_token = blocks.split(",")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=components.denoiser.vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.3,
    )  # fmt: skip
    config.is_causal = False
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    shift, causal = int(first_token == "True"), size == "1"
    denoiser = replace(
        components.denoiser, model_class=Qwen3ForCausalLM, arguments={"config": config}, model=model, shift=shift,
        topology=Topology(int(size), anchor, first_token == "True"), forward=causal_forward(model) if causal else bidirectional_forward(model, shift),
        mask_id=config.vocab_size if causal else components.denoiser.mask_id,
    )  # fmt: skip
    return replace(components, denoiser=denoiser)


def main(cases: list[str]) -> None:
    """cases: a sampler and overrides, separated by spaces; blocks=size,anchor,first_token for a random block model,
    model_on=, reward_on=: their devices, if not the first pretended one."""
    torch.inference_mode = without_inference_mode  # before rws decorates with it
    from rws_cli.config.composing import compose
    from rws_cli.decoding.loop import Decoder
    from rws_cli.runs.batch_decoder import Attempt
    from rws_cli.runs.prepared import load, prepare

    step = Decoder.step
    waits_of_steps: list[Counter[str]] = []

    def counted_step(self: Decoder) -> None:
        WAITS.clear()
        step(self)
        waits_of_steps.append(WAITS.copy())

    Decoder.step = counted_step  # type: ignore[method-assign]
    loaded, found, options = {}, {}, {}
    for case in cases:
        name, *overrides = case.split()
        ours = {"blocks", "model_on", "reward_on"}
        options[case] = dict(one.split("=") for one in overrides if one.partition("=")[0] in ours)
        settings = [f"sampler={name}", "benchmark=arithmetic", "sampler.gen_length=4", "sampler.block_length=2"]
        settings += [one for one in overrides if one.partition("=")[0] not in ours]
        if not any(one.startswith("sampler.search.particles=") for one in overrides):
            settings += ["sampler.search.particles=2"] if compose(*settings).sampler.search.particles > 1 else []
        search = compose(*settings).sampler.search
        settings += (
            ["sampler.search.every=2"] if hasattr(search, "every") else []
        )  # else no step of the few would weigh
        config = compose(*settings, "benchmark.limit=16")
        prepared = prepare(config)
        components = load(config, prepared)
        if blocks := options[case].get("blocks"):
            components = with_blocks(components, blocks)
        loaded[case] = config, prepared, components

    def tokens(case: str, rows: int) -> dict[str, Any]:
        config, prepared, components = loaded[case]
        examples = prepared.examples[: max(1, rows // config.sampler.search.particles)]
        decoding = Attempt(config, prepared, components, examples, rows, lambda committed, traces: None)
        traces = [trace for outcome in decoding.outcomes() for trace in outcome.traces]
        return {trace["id"]: [trace[key] for key in ("step", "position", "token")] for trace in traces}

    install()  # after loading, and before autograd counts devices
    for case in cases:
        found[case] = {"cpu": tokens(case, 16), "searches": loaded[case][0].sampler.search.kind != "none"}
        found[case]["lookahead"] = bool(loaded[case][0].sampler.schedule.lookahead)
        found[case]["gradients"] = any("gradients" in part.needs for part in loaded[case][0].sampler.parts.values())
    for case in cases:
        config, prepared, components = loaded[case]
        model_on, reward_on = (options[case].get(which, NAME) for which in ("model_on", "reward_on"))
        move(components.denoiser.model, model_on)
        components = replace(components, denoiser=replace(components.denoiser, device=torch.device(model_on)))
        guidance = components.sampler.guidance
        if hasattr(components.reward, "model"):
            move(components.reward.model, reward_on)
            with device():
                if hasattr(guidance, "map_V"):
                    guidance.map_V, guidance.shared_K = (x.to(reward_on) for x in (guidance.map_V, guidance.shared_K))
                    guidance.embedding = components.reward.model.get_input_embeddings().weight
        loaded[case] = config, prepared, components
        with device():
            tokens(case, 1)  # the first use of a part may move constants
        for rows in (4, 16):
            waits_of_steps.clear()
            with device():
                found[case][f"tokens at {rows}"] = tokens(case, rows)
            most = max(waits_of_steps, key=Counter.total)
            found[case][f"waits at {rows}"], found[case][f"lines at {rows}"] = most.total(), most
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
