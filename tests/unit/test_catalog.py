from pathlib import Path

import pytest

from app import catalog

HEAD = """
[models.{name}]
enabled = {enabled}
context_length = {context}
input_price_micros = 1
output_price_micros = 1
version = "1"
[models.{name}.versions.1]
source = "somewhere"
"""


def entry(name: str, *lines: str, enabled: bool = True, context: int = 100) -> str:
    """A model with one version, which has these lines beside its source."""
    head = HEAD.format(name=name, enabled=str(enabled).lower(), context=context)
    return head + "".join(f"{line}\n" for line in lines)


def load(folder: Path, *entries: str) -> catalog.Catalog:
    file = folder / "catalog.toml"
    file.write_text("".join(entries))
    return catalog.load(file)


def test_an_adapter_is_a_model_of_its_own_that_runs_on_the_current_version_of_its_base(
    tmp_path: Path,
) -> None:
    found = load(
        tmp_path,
        entry("big", 'revision = "abc"'),
        entry("tuned", 'base = "big"', context=50),
        entry("off", 'base = "big"', enabled=False),
        entry("other"),
    )
    assert list(found.adapters_of("big")) == ["tuned"]
    assert found.adapters_of("other") == {}
    assert found.running(found.served("tuned")) == found.served("big").current
    assert found.running(found.served("big")) == found.served("big").current
    assert found.served("tuned").context_length == 50


OPENAI = ('served_name = "x"', 'engine = "openai"')


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("a", 'base = "b"')], "a, version 1: its base b is not in the catalog"),
        ([entry("a", 'base = "a"')], "a, version 1: its base a is an adapter itself"),
        (
            [entry("a", 'base = "b"'), entry("b", 'base = "c"'), entry("c")],
            "a, version 1: its base b is an adapter itself",
        ),
        (
            [entry("a", 'base = "b"'), entry("b", *OPENAI)],
            'a, version 1: its base b has the engine "openai", and only "native" serves adapters; '
            "a server beside the worker serves them as models of their own",
        ),
        (
            [entry("a", 'base = "b"', context=101), entry("b")],
            "a, version 1: its context_length is more than that of its base b",
        ),
        (
            [entry("a", 'base = "b"'), entry("b", enabled=False)],
            "a, version 1: it is enabled, and its base b is not",
        ),
        (
            [entry("a", 'base = "b"', 'engine = "native"'), entry("b")],
            "an adapter has no engine: its base says what runs it",
        ),
    ],
)
def test_an_adapter_without_a_base_that_can_serve_it_is_an_error_that_names_the_entry(
    entries: list[str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="catalog") as error:
        load(tmp_path, *entries)
    assert reason in str(error.value)


def test_batches_cost_half_unless_a_model_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, entry("a")).models["a"].batch_price_percent == 50
    for wrong in ("-1", "101", "0.5", '"50"'):
        text = entry("a").replace("version =", f"batch_price_percent = {wrong}\nversion =", 1)
        with pytest.raises(ValueError, match="batch_price_percent"):
            load(tmp_path, text)
