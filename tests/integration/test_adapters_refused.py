"""A worker of the native engine with adapters, one of which does not fit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.config import Settings
from tests.integration import lora, tiny
from tests.integration.conftest import Submit
from workers.generate import generate
from workers.process import Process, compose


@pytest.fixture
def catalog_file(adapters_file: Path) -> Path:
    """The base is a tiny Llama."""
    fake = 'source = "fake:"\nengine = "fake"'
    adapters_file.write_text(adapters_file.read_text().replace(fake, 'source = "tiny"', 1))
    return adapters_file


@pytest.fixture
def native(settings: Settings, tmp_path: Path) -> Iterator[Process]:
    """A worker: "verse" is an adapter of its model, and "terse" one of another."""
    tiny.llama().save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    lora.saved(tmp_path / "verse", tiny.llama(), **lora.WIDE)
    lora.saved(tmp_path / "terse", tiny.llama(hidden_size=32), target_modules=["down_proj"])
    process = compose(settings)
    assert process.serve(["generate.fake"], "worker-test") == ["generate.fake", "generate.verse"]
    yield process
    process.stop()
    process.database.close()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_worker_serves_the_adapters_that_fit_and_says_of_the_others_why_not(
    client: FlaskClient, submit: Submit, native: Process
) -> None:
    serving = native.servings["generate.fake"]
    jobs = {
        model: submit(model=model, prompt="the quick", max_tokens=10, temperature=0).json["id"]
        for model in ("terse", "fake", "verse")
    }
    for _ in range(3):
        generate(native, serving)
    done = {model: client.get(f"/api/v1/jobs/{job}").json for model, job in jobs.items()}
    assert done["fake"]["output"]["text"] != done["verse"]["output"]["text"]
    usage = done["verse"]["usage"]
    assert done["verse"]["charge"]["charged_micros"] == 5 * usage["total_tokens"]
    assert done["terse"]["status"] == "queued"
    assert done["terse"]["waiting"]["reason"] == "model_failed"
    models = client.get("/api/v1/status").json["models"]
    found = models["terse"]
    assert (found["ready"], found["workers"]["failed"]) == (False, 1)
    assert found["errors"] == [
        "terse, version 7: It is an adapter of another base: its model.layers.0.mlp.down_proj "
        "goes from 96 to 32, and that of this one from 96 to 64."
    ]
    assert models["verse"]["ready"]
