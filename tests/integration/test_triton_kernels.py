import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

# Of Hopper: what a program may take, and what one thread may.
SHARED_BYTES = 227 * 1024
REGISTERS = 255

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux only")


def ran(module: str, *arguments: str, **environment: str) -> str:
    """What a process of its own prints; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def test_the_triton_kernels_agree_with_the_reference() -> None:
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    # NumPy, which the interpreter computes with, warns of what is meant: exp of large numbers.
    options = ("-q", "-W", "ignore::RuntimeWarning")
    ran("pytest", *options, "tests/integration/triton_cases.py", **interpreted)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each kernel takes of a Hopper GPU; see triton_compiling."""
    folder: Path = tmp_path_factory.mktemp("triton")
    lines = ran("tests.integration.triton_compiling", TRITON_CACHE_DIR=str(folder)).splitlines()
    return [json.loads(line) for line in lines]


def test_all_compile_for_hopper_and_fit_into_its_registers_and_shared_memory(
    kernels: list[dict[str, Any]],
) -> None:
    names = [each["kernel"] for each in kernels]
    assert set(names) == {"_place", "_ragged", "_decode", "_combine", "_add_norm", "_gated"}
    assert names.count("_ragged") == 3
    assert names.count("_decode") == 6
    assert [each for each in kernels if each["stack"] or each["reg"] > REGISTERS] == []
    assert [each for each in kernels if each["shared"] > SHARED_BYTES] == []


def test_attention_multiplies_on_matrix_units_and_reads_ahead(
    kernels: list[dict[str, Any]],
) -> None:
    instructions = {name: [] for name in ("_ragged", "_decode")}
    for each in kernels:
        if each["kernel"] in instructions:
            instructions[each["kernel"]].append(each["instructions"])
    assert instructions["_ragged"] == [["wgmma.mma_async", "cp.async.cg"]] * 3
    assert instructions["_decode"] == [["mma.sync", "cp.async.cg"]] * 6
