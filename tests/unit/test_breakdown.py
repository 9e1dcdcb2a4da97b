"""Which errors are those of a GPU, and what operators read of them."""

import pytest

from workers.engines.breakdown import gpu_failure


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later",
            "The GPU failed: CUDA error: unspecified launch failure.",
        ),
        (
            "CUDA driver error: device not ready.",
            "The GPU failed: CUDA driver error: device not ready.",
        ),
        ("cuDNN error: CUDNN_STATUS_X", "The GPU failed: cuDNN error: CUDNN_STATUS_X."),
        (
            "Triton Error [CUDA]: an illegal memory access",
            "The GPU failed: Triton Error [CUDA]: an illegal memory access.",
        ),
    ],
)
def test_the_first_line_says_how_a_gpu_failed(words: str, sentence: str) -> None:
    assert gpu_failure(RuntimeError(words)) == sentence


@pytest.mark.parametrize(
    "words", ["", "CUDA out of memory. Tried to allocate 2 GiB", "shapes differ", "a CUDA error"]
)
def test_other_errors_are_none_of_a_gpu(words: str) -> None:
    assert gpu_failure(RuntimeError(words)) is None
