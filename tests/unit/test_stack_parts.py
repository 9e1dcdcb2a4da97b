from pathlib import Path

from app.config import Settings
from scripts.stack.choices import Choices
from scripts.stack.parts import Stack
from scripts.stack.state import State


def test_a_worker_may_end_its_jobs_before_it_is_killed(tmp_path: Path) -> None:
    stack = Stack(
        state=State(tmp_path),
        choices=Choices(port=1, flower_port=2, database_url="", redis_url=""),
        database_url="postgresql://127.0.0.1/nothing",
        redis_url="redis://127.0.0.1/0",
        flower_password="",
    )
    needed = Settings().shutdown_grace_seconds + 10  # to hand back what has not ended
    assert stack.worker("fake").grace_seconds >= needed
    assert stack.delivery().grace_seconds >= needed
    assert stack.api().grace_seconds < needed
