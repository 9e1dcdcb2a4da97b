"""Who takes part. Each is made in its own process, and only there torch is imported."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.benching.engine.llama import Llama
from scripts.benching.engine.product import Product
from scripts.benching.engine.work import Contestant

Make = Callable[[], Contestant]

# As many as ever arrive together, for every contestant that lets itself be told.
SLOTS = 64
DEVICE = "cpu"
# The engine that ours replaces, beside which it is measured, too.
FORMER = "transformers"


def entries(*, ours: str, folder: Path, llama: tuple[Path, Path] | None) -> dict[str, Make]:
    """All of them by name; ``ours`` is an engine as a catalog calls it, ``folder`` the checkpoint,
    ``llama`` the binary of llama.cpp's server and a GGUF of the same model.
    """
    engines = dict.fromkeys([ours, FORMER])
    product = partial(Product, folder=folder, slots=SLOTS, device=DEVICE)
    found: dict[str, Make] = {name: partial(product, name) for name in engines}
    found["static"] = partial(static, folder, DEVICE)
    found["continuous"] = partial(continuous, folder, DEVICE)
    if llama:
        found["llama"] = partial(Llama, binary=llama[0], gguf=llama[1])
    return found


def static(folder: Path, device: str) -> Contestant:
    """transformers' ``generate``."""
    from scripts.benching.engine.static import Static

    return Static(folder=folder, device=device)


def continuous(folder: Path, device: str) -> Contestant:
    """transformers' continuous batching."""
    from scripts.benching.engine.continuous import Continuous

    return Continuous(folder=folder, slots=SLOTS, device=device)
