"""Compiles what the Triton kernels launch for Hopper, without a GPU, and prints what each takes.

One JSON object a line: the kernel's name, registers of a thread, bytes of its stack (where numbers
go for which there are no registers), warps, shared memory in bytes, and instructions of note.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from tests.kernels import CPU, attention, batch
from workers.engines.native.kernels import Heads, Norm
from workers.engines.native.kernels.triton import TritonKernels

HOPPER = GPUTarget("cuda", 90, 32)
DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32"}
INSTRUCTIONS = ("wgmma.mma_async", "mma.sync", "cp.async.cg")


def compiled(kernel: JITFunction[Any], *args: Any, **options: Any) -> Any:
    """What a launch would compile: the same types and constants, and addresses as aligned."""
    given = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = given.pop(parameter.name)
        if isinstance(value, Tensor):
            assert value.data_ptr() % 16 == 0, (kernel.__name__, parameter.name)
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        else:
            assert parameter.do_not_specialize, "compiled anew for numbers that change"
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature, constants, attributes)
    launch = {name: given[name] for name in ("num_warps", "num_stages") if name in given}
    return triton.compile(source, target=HOPPER, options=launch)


def resources(name: str, made: Any) -> dict[str, Any]:
    """What a compiled kernel takes of a GPU."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        command = [str(DUMP), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "kernel": name,
        **{key: int(re.findall(rf"{key.upper()}:(\d+)", text)[0]) for key in ("reg", "stack")},
        "shared": made.metadata.shared,
        "warps": made.metadata.num_warps,
        "instructions": [each for each in INSTRUCTIONS if each in made.asm["ptx"]],
    }


def attend(heads: Heads, dtype: torch.dtype) -> None:
    """Attention for several new tokens of a row, for one, and for a row that programs share."""
    kernels = TritonKernels(CPU)
    made = attention(heads, window=4096 if heads.softcap else 0, norms=heads.softcap > 0)
    cache = kernels.cache(64, heads, dtype)
    several, one = (kernels.prepare(each, heads) for each in (batch([0], [9]), batch([9], [1])))
    for step in (several, one, replace(one, splits=8)):
        tokens, width = len(step.positions), (heads.heads + 2 * heads.kv_heads) * heads.dim
        kernels.attend(step, torch.zeros(tokens, width).to(dtype), attention=made, cache=cache)


def main() -> None:
    """The shapes of a small model, of Gemma 2, and of Qwen2.5-7B."""
    done = set()

    def note(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made = compiled(kernel, *args, **options)
        if made.hash not in done:
            done.add(made.hash)
            sys.stdout.write(json.dumps(resources(kernel.__name__, made)) + "\n")

    JITFunction.run = note
    attend(Heads(9, 3, 64, 0.125), torch.float16)
    attend(Heads(8, 4, 256, 0.1, softcap=50.0), torch.bfloat16)
    attend(Heads(28, 4, 128, 0.1), torch.bfloat16)
    kernels, x = TritonKernels(CPU), torch.zeros(1, 3584, dtype=torch.bfloat16)
    kernels.add_norm(x, x, Norm(torch.ones(3584), 1e-5))
    kernels.gated(x, "silu")


if __name__ == "__main__":
    main()
