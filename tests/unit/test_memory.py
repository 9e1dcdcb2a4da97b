from pathlib import Path

import psutil
import pytest

from workers.engines.memory import free_bytes

MIB = 1 << 20


def written(folder: Path, **files: str) -> Path:
    """The folder of a control group with these files, dashes for dots in their names."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {
            "memory-max": f"{9 * MIB}\n",
            "memory-current": f"{4 * MIB}\n",
            "memory-stat": f"anon 5\ninactive_file {2 * MIB}\n",
        },
        {
            "memory__memory-limit_in_bytes": f"{9 * MIB}",
            "memory__memory-usage_in_bytes": f"{4 * MIB}",
            "memory__memory-stat": f"inactive_file 7\ntotal_inactive_file {2 * MIB}\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_in_a_container_its_limit_says_what_is_free(tmp_path: Path, files: dict[str, str]) -> None:
    assert free_bytes(written(tmp_path, **files)) == 7 * MIB


def test_a_container_that_uses_all_has_nothing_free(tmp_path: Path) -> None:
    files = {"memory-max": str(MIB), "memory-current": str(2 * MIB), "memory-stat": ""}
    assert free_bytes(written(tmp_path, **files)) == 0


@pytest.mark.parametrize(
    "files", [{}, {"memory-max": "max", "memory-current": "1", "memory-stat": ""}]
)
def test_without_a_limit_the_host_says_it(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real)
    assert free_bytes(written(tmp_path, **files)) == real.available
