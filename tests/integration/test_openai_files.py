"""Files, as the official SDK of OpenAI sees them, over HTTP."""

import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests
from flask import Flask
from openai import OpenAI
from sqlalchemy import func, select, update

from app.batches.queries import INPUTS_IN_USE
from app.config import Settings
from app.db import Database
from app.files import storing
from app.files.tables import CHUNK_BYTES, File, FileChunk
from tests.conftest import Customer
from tests.integration.batching import created, line
from tests.integration.live import served

LARGE = 64 * 1024 * 1024


@pytest.fixture
def address(api: Flask) -> Iterator[str]:
    """Where the API is."""
    with served(api) as url:
        yield f"{url}/v1"


@pytest.fixture
def sdk(address: str, customer: Customer) -> Iterator[OpenAI]:
    """The SDK as a customer sets it up."""
    with OpenAI(base_url=address, api_key=customer.key) as sdk:
        yield sdk


def rows(database: Database) -> tuple[int, int]:
    """How many files and chunks are stored, seen or not."""
    with database.transaction() as session:
        files = session.scalar(select(func.count()).select_from(File))
        chunks = session.scalar(select(func.count()).select_from(FileChunk))
    return files or 0, chunks or 0


def test_a_file_comes_back_as_it_was_sent(sdk: OpenAI, database: Database) -> None:
    data = bytes(range(256)) * 2600 + b"\r\n--x\r\n\r\n--\n" * 999
    made = sdk.files.create(file=('größe "1".jsonl', data), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (len(data), 'größe "1".jsonl', "batch")
    assert (made.object, made.status, made.expires_at) == ("file", "processed", None)
    assert sdk.files.retrieve(made.id) == made
    assert list(sdk.files.list()) == [made]
    assert sdk.files.content(made.id).content == data
    with sdk.files.with_streaming_response.content(made.id) as stream:
        assert b"".join(stream.iter_bytes()) == data
    assert rows(database)[1] == -(-len(data) // CHUNK_BYTES)
    gone = sdk.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    assert rows(database) == (0, 0)
    with pytest.raises(openai.NotFoundError) as error:
        sdk.files.retrieve(made.id)
    assert (error.value.code, error.value.param) == ("file_not_found", "file_id")


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 4 * CHUNK_BYTES + 1])
def test_files_of_all_sizes(sdk: OpenAI, size: int) -> None:
    data = b"a" * size
    made = sdk.files.create(file=data, purpose="batch")
    assert made.bytes == size
    assert sdk.files.content(made.id).content == data


def test_files_are_listed_in_pages(sdk: OpenAI) -> None:
    made = [sdk.files.create(file=(f"{n}", b"x"), purpose="batch").id for n in range(5)]
    page = sdk.files.list(limit=2)
    assert ([each.id for each in page.data], page.has_more) == (made[:2:-1], True)
    assert [each.id for each in sdk.files.list(limit=2)] == made[::-1]
    assert [each.id for each in sdk.files.list(limit=2, order="asc")] == made
    assert list(sdk.files.list(purpose="batch_output")) == []
    for wrong, param in (
        ({"limit": 0}, "limit"),
        ({"after": "file-1"}, "after"),
        ({"purpose": "vision"}, "purpose"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            sdk.files.list(**wrong)  # type: ignore[arg-type]
        assert error.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_what_a_file_cannot_be_is_refused_by_name(
    sdk: OpenAI, database: Database, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        sdk.files.create(**{"file": b"x" * 3_000_000, "purpose": "batch", **fields})
    assert (error.value.param, error.value.code) == (param, "invalid_request")
    assert rows(database) == (0, 0)


def test_forms_of_other_clients(address: str, customer: Customer, database: Database) -> None:
    def post(status: int, **how: Any) -> dict[str, Any]:
        answer = requests.post(f"{address}/files", headers=customer.headers, timeout=9, **how)
        assert answer.status_code == status, answer.text
        body: dict[str, Any] = answer.json()
        return body

    # As curl does: the fields may come after the file.
    ordered = [("file", ("a.jsonl", b"{}")), ("purpose", (None, "batch"))]
    assert post(200, files=ordered)["bytes"] == 2
    assert post(400, files={"purpose": (None, "batch")})["error"]["param"] == "file"
    assert post(400, files={"other": ("a", b"x")})["error"]["param"] == "other"
    assert post(400, files=[*ordered, ordered[0]])["error"]["param"] == "file"
    assert post(415, json={"purpose": "batch"})["error"]["code"] == "not_multipart"
    assert post(413, files={"purpose": (None, "x" * 9999)})["error"]["code"] == "body_too_large"
    headers = {**customer.headers, "Content-Type": "multipart/form-data; boundary=b"}
    broken = requests.post(f"{address}/files", data=b"--b\r\nx", headers=headers, timeout=9)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "malformed_request")
    assert rows(database) == (1, 1)


class TestSmallLimit:
    """Where files may have 10 kB."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_file_bytes": 10_000})

    def test_a_file_that_is_too_large_is_refused(self, sdk: OpenAI, database: Database) -> None:
        assert sdk.files.create(file=b"x" * 10_000, purpose="batch").bytes == 10_000
        with pytest.raises(openai.APIStatusError) as error:
            sdk.files.create(file=b"x" * 10_001, purpose="batch")
        assert (error.value.status_code, error.value.code) == (413, "body_too_large")
        assert error.value.param == "file"
        assert rows(database)[0] == 1


def test_an_upload_that_breaks_off_leaves_nothing(
    sdk: OpenAI, address: str, customer: Customer, database: Database
) -> None:
    place = urlsplit(address)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {customer.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )
    with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
        connection.sendall(head.encode() + b"y" * 5_000_000)
        _wait(lambda: rows(database)[1] >= 16)
        assert list(sdk.files.list()) == []
    _wait(lambda: rows(database) == (0, 0))


def test_what_a_killed_process_left_of_an_upload_is_swept(
    sdk: OpenAI, database: Database, customer: Customer
) -> None:
    kept = sdk.files.create(file=b"x", purpose="batch")
    with database.transaction() as session:
        dead = storing.begin_file(session, customer.id, storing.Purpose.BATCH, filename="")
        storing.append(session, dead, b"x" * 300_000)
    assert not swept(database)
    with database.transaction() as session:
        session.execute(update(File).values(written_at=func.now() - storing._BROKEN_AFTER * 2))
    assert swept(database)
    assert [each.id for each in sdk.files.list()] == [kept.id]
    assert rows(database) == (1, 1)


def test_files_expire_but_not_under_a_batch(sdk: OpenAI, database: Database) -> None:
    made = sdk.files.create(
        file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600
    batch = created(sdk, [line("a")])
    with database.transaction() as session:
        session.execute(update(File).values(expires_at=func.now()))
    assert list(sdk.files.list()) == []
    assert swept(database)
    assert not swept(database)
    assert rows(database) == (1, 1)
    assert sdk.batches.retrieve(batch.id).status == "validating"


def test_the_input_of_an_open_batch_is_not_deleted(sdk: OpenAI) -> None:
    batch = created(sdk, [line("a")])
    with pytest.raises(openai.ConflictError) as error:
        sdk.files.delete(batch.input_file_id)
    assert (error.value.code, error.value.param) == ("file_in_use", "file_id")


def test_large_files_go_in_and_out_in_little_memory(sdk: OpenAI, tmp_path: Any) -> None:
    path = tmp_path / "large.jsonl"
    text = json.dumps({"x": "0123456789" * 100}).encode() + b"\n"
    with path.open("wb") as file:
        while file.tell() < LARGE:
            file.write(text * 1000)
    # The SDK reads a file whole before it sends it, so another client sends it piece by piece.
    size = path.stat().st_size
    tracemalloc.start()
    try:
        made = _sent(sdk, path)
        with sdk.files.with_streaming_response.content(made) as stream:
            assert sum(map(len, stream.iter_bytes(65_536))) == size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


def _sent(sdk: OpenAI, path: Any) -> str:
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )
    tail = b"\r\n--b--\r\n"

    class Body:
        def __len__(self) -> int:
            return len(head) + path.stat().st_size + len(tail)

        def __iter__(self) -> Iterator[bytes]:
            yield head
            with path.open("rb") as file:
                while piece := file.read(65_536):
                    yield piece
            yield tail

    headers = {
        "Authorization": f"Bearer {sdk.api_key}",
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Length": str(len(Body())),
    }
    answer = requests.post(f"{sdk.base_url}files", data=Body(), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


def swept(database: Database) -> bool:
    """Whether the sweep found something."""
    with database.transaction() as session:
        return storing.forget_files(session, in_use=INPUTS_IN_USE)


def _wait(until: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not until():
        assert time.monotonic() < give_up
        time.sleep(0.05)
