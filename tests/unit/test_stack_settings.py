from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import Settings
from scripts.stack import ports, servers, settings
from scripts.stack.choices import Choices
from scripts.stack.problem import Problem
from scripts.stack.state import State

NO_PRICE = """
[models.fake]
enabled = true
context_length = 10
version = "1"
[models.fake.versions.1]
source = "fake:"
"""


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., None]:
    """Look at servers that the user brings along."""

    def look(*, database_url: str = "", redis_url: str = "") -> None:
        choices = Choices(port=1, flower_port=2, database_url=database_url, redis_url=redis_url)
        servers.check(choices, State(tmp_path))

    return look


def test_a_setting_that_does_not_fit_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPTQUEUE_LEASE_SECONDS", "abc")
    with pytest.raises(Problem, match="GPTQUEUE_LEASE_SECONDS is 'abc': Input should be a valid"):
        settings.read()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"models = [", "Invalid value"),
        (b"\xff", "utf-8"),
        (b"", "models: Field required"),
        (NO_PRICE.encode(), "models.fake.input_price_micros: Field required"),
        (b"[models]", "has no enabled model"),
    ],
)
def test_a_catalog_that_cannot_be_used_is_named_in_one_line(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "catalog.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Problem) as raised:
        settings.models(file)
    assert f"The catalog {file}" in str(raised.value)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["garbage", "postgresql://u:secret@host:port/name", "://"])
def test_what_is_no_address_of_a_database_is_told_without_its_password(url: str) -> None:
    with pytest.raises(Problem, match="DATABASE_URL is no address") as raised:
        settings.connect(Settings(database_url=url))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["garbage", "amqp://host", "redis://:secret@host:port/0", "redis://127.0.0.1/0?what=1"]
)
def test_what_is_no_address_of_a_broker_is_told_without_its_password(
    check: Callable[..., None], url: str
) -> None:
    with pytest.raises(Problem, match="REDIS_URL is no address") as raised:
        check(redis_url=url)
    assert "secret" not in str(raised.value)


def test_a_server_that_does_not_answer_and_an_unknown_option_are_named(
    check: Callable[..., None], postgres_url: str
) -> None:
    port = ports.find_free()
    with pytest.raises(Problem, match="The broker in REDIS_URL does not answer"):
        check(redis_url=f"redis://127.0.0.1:{port}/0")
    with pytest.raises(Problem, match="The database in DATABASE_URL does not answer"):
        check(database_url=f"postgresql://127.0.0.1:{port}/nothing")
    with pytest.raises(Problem, match=r"The database in DATABASE_URL cannot be used: .*what"):
        check(database_url=f"{postgres_url}?what=1")


def test_one_port_for_both_the_api_and_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTQUEUE_PORT", "5555")
    with pytest.raises(Problem, match="GPTQUEUE_PORT and GPTQUEUE_FLOWER_PORT are both 5555"):
        Choices.of_environment()


def test_a_state_folder_that_cannot_be_made_is_a_problem_that_names_its_variable(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match=r"cannot be made: Not a directory.*GPTQUEUE_STATE_DIR"):
        State(tmp_path / "file" / "state").create()
