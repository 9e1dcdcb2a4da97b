import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app import catalog
from app.config import Settings
from scripts.quantization import __main__ as quantize
from scripts.quantization import passages
from scripts.quantization.errors import Refused
from tests.integration import tiny
from workers import engines
from workers.engines.base import Request

QUANTIZED = b'{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}'
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    tiny.llama().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    file = tmp_path / "calibration.txt"
    file.write_text("\n".join(f"{number} {tiny.PANGRAM}" for number in range(40)))
    return file


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What is printed when the given arguments are refused."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
        assert quantize.main() == 1
        printed = capsys.readouterr().err.strip().splitlines()[-1]
        assert printed.startswith("quantize: ")
        return printed

    return run


@pytest.mark.parametrize(
    ("place", "content", "reason"),
    [
        ("nothing", None, "does not exist"),
        ("nothing.gguf", None, "does not exist"),
        ("broken.gguf", b"GGUF, but not really", "cannot be read"),
        ("empty/config.json", b"{}", "cannot be read"),
        ("quantized/config.json", QUANTIZED, "quantized already"),
        ("vision/config.json", b'{"model_type": "vit"}', "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_and_leaves_nothing(
    place: str,
    content: bytes | None,
    reason: str,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    file = tmp_path / place
    if content is not None:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    named = file.parent if file.name == "config.json" else file
    assert reason in refusal(named, tmp_path / "made" / "dest")
    assert not (tmp_path / "made").exists()


def test_a_destination_that_exists_is_refused_and_kept(
    source: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "mine").write_text("kept")
    assert "exists already" in refusal(source, tmp_path / "dest")
    assert (tmp_path / "dest" / "mine").read_text() == "kept"


def test_a_group_size_that_no_layer_takes_is_refused(
    source: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    arguments = (source, tmp_path / "dest", "--group-size", 128)
    assert "--group-size 32 would" in refusal(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group_size", ["16", "96", "-1"])
def test_a_group_size_that_no_kernel_takes_is_refused(
    group_size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["anything", str(tmp_path / "dest"), f"--group-size={group_size}"]
    monkeypatch.setattr(sys, "argv", ["quantize", *arguments])
    with pytest.raises(SystemExit) as ended:
        quantize.main()
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("below", "reason"), [("file", "file: File exists."), ("file/made", "Not a directory.")]
)
def test_a_destination_below_a_file_is_refused_before_the_model_is_read(
    below: str,
    reason: str,
    tmp_path: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scripts.quantization.run.run", None)
    (tmp_path / "file").write_text("kept")
    assert refusal("anything", tmp_path / below / "dest").endswith(reason)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_destination_that_may_not_be_written_is_refused(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    tmp_path.chmod(0o500)
    assert refusal("anything", tmp_path / "dest").endswith("Permission denied.")


def test_what_an_earlier_run_left_behind_is_kept(
    source: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    left = tmp_path / "dest.partial"
    left.mkdir()
    (left / "mine").write_text("kept")
    refusal(source, tmp_path / "dest", "--group-size", 128)
    assert (left / "mine").read_text() == "kept"


@pytest.mark.parametrize("succeeds", [True, False])
def test_of_two_runs_to_one_destination_neither_takes_the_others_work(
    succeeds: bool, tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends in the middle of the first; both make the folder above."""
    dest, outcomes = tmp_path / "made" / "dest", [succeeds, True]

    def run(*, dest: Path, **_: object) -> None:
        dest.mkdir()
        (dest / "mine").touch()
        if len(outcomes) == 2:
            outcomes.pop()
            second()
        elif not outcomes.pop():
            raise Refused("The second is refused.")
        assert (dest / "mine").exists()

    def second() -> None:
        assert quantize.main() == (0 if succeeds else 1)

    monkeypatch.setattr("scripts.quantization.run.run", run)
    if succeeds:
        assert "exists already" in refusal("anything", dest)
    else:
        monkeypatch.setattr(sys, "argv", ["quantize", "anything", str(dest)])
        assert quantize.main() == 0
    assert [each.name for each in dest.parent.iterdir()] == ["dest"]
    assert [each.name for each in dest.iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nat length"), MemoryError()])
def test_a_library_that_fails_is_told_in_one_sentence_and_leaves_nothing(
    error: Exception,
    source: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(**_: object) -> None:
        raise error

    monkeypatch.setattr("scripts.quantization.run.quantize", failing)
    reason = str(error).split("\n", 1)[0] or "MemoryError"
    told = refusal(source, tmp_path / "new" / "dest", "--group-size", 32)
    assert told == f"quantize: The model could not be quantized: {reason}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read"), ("one\ntwo", "has 2")])
def test_a_calibration_file_without_enough_text_is_refused(
    content: str | None,
    reason: str,
    source: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    file = tmp_path / "calibration.txt"
    if content:
        file.write_text(content)
    arguments = (source, tmp_path / "dest", "--group-size", 32, "--calibration", file)
    assert reason in refusal(*arguments)
    assert not (tmp_path / "dest").exists()


def test_an_interrupted_run_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.quantization.run.quantize", interrupted)
    dest = tmp_path / "new" / "dest"
    monkeypatch.setattr(sys, "argv", ["quantize", str(source), str(dest), "--group-size", "32"])
    assert quantize.main() == 130
    assert list(tmp_path.iterdir()) == []


def test_what_is_measured_on_is_never_calibrated_on() -> None:
    calibration, held_out = passages.calibration(None), passages.held_out()
    assert len(calibration) >= 256
    assert len(set(calibration)) > 200
    calibrated = {line for text in calibration for line in text.split("\n") if len(line) > 40}
    assert not calibrated & {line for text in held_out for line in text.split("\n")}


@pytest.mark.model
def test_a_model_is_quantized_loads_and_answers(
    source: Path, calibration: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "scripts.quantization", source, "made/dest"]
    result = subprocess.run(
        [*command, "--group-size", "32", "--calibration", calibration],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith("size ")
    assert "perplexity" in result.stdout
    made = tmp_path / "made" / "dest"
    assert [each.name for each in made.parent.iterdir()] == ["dest"]
    assert {each.name for each in tmp_path.iterdir()} == {"made", calibration.name}
    config = json.loads((made / "config.json").read_text())["quantization_config"]
    assert (config["bits"], config["group_size"]) == (4, 32)
    assert (config["sym"], config["desc_act"]) == (True, False)

    version = {"source": "made/dest"}
    model = catalog.Model(
        context_length=100,
        input_price_micros=1,
        output_price_micros=1,
        version="1",
        versions={"1": version},
    )
    engine = engines.load(
        "tiny", model, version="1", settings=Settings(models_dir=tmp_path, device="cpu")
    )
    answer = engine.submit(Request(id="1", prompt="the quick", max_tokens=5)).result(timeout=30)
    engine.close()
    assert answer.prompt_tokens == 3
