"""The OpenAPI document says what the routes do, of every route."""

import re
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import errors
from app.api import openapi
from app.api.operations import OPERATIONS
from app.errors import GPTQueueError
from app.openai import errors as compatible

DOCUMENT = openapi.document()
OPEN = {
    ("get", "/api/v1/health"),
    ("get", "/api/v1/status"),
    ("get", "/api/v1/metrics"),
    ("get", "/api/v1/openapi.json"),
    ("get", "/api/v1/docs"),
    ("get", "/api/v1/docs/{name}"),
}
KEY = {"missing_credential", "invalid_credential", "database_unavailable"}
SUBMIT = {
    "malformed_request",
    "invalid_json",
    "insufficient_credit",
    "body_too_large",
    "not_json",
    "invalid_request",
    "unknown_model",
    "context_length_exceeded",
    "webhook_url_refused",
    "idempotency_key_reused",
    *KEY,
}
CALL_KEY = {"invalid_api_key", "database_unavailable"}
CALL = {
    *SUBMIT - KEY - {"insufficient_credit", "unknown_model"},
    "insufficient_quota",
    "model_not_found",
    "job_cancelled",
    "job_expired",
    "job_failed",
    "call_timed_out",
    "client_gone",
    *CALL_KEY,
}
BODY = {"malformed_request", "invalid_json", "body_too_large", "not_json", "invalid_request"}
ENDPOINTS = "/api/v1/webhooks/endpoints"
DELIVERIES = "/api/v1/webhooks/deliveries"
ENDPOINT = {"webhook_endpoint_not_found", *KEY}
CODES: dict[tuple[str, str], set[str]] = {
    ("post", "/v1/chat/completions"): CALL,
    ("post", "/v1/completions"): CALL,
    ("post", "/v1/responses"): {"response_not_found", *CALL},
    ("get", "/v1/responses/{response}"): {"response_not_found", "invalid_request", *CALL_KEY},
    ("post", "/v1/responses/{response}/cancel"): {"response_not_found", *CALL_KEY},
    ("delete", "/v1/responses/{response}"): {"response_not_found", "job_still_runs", *CALL_KEY},
    ("post", "/v1/files"): {
        "malformed_request",
        "body_too_large",
        "not_multipart",
        "invalid_request",
        *CALL_KEY,
    },
    ("get", "/v1/files"): {"invalid_request", *CALL_KEY},
    ("get", "/v1/files/{file}"): {"file_not_found", *CALL_KEY},
    ("get", "/v1/files/{file}/content"): {"file_not_found", *CALL_KEY},
    ("delete", "/v1/files/{file}"): {"file_not_found", "file_in_use", *CALL_KEY},
    ("post", "/v1/batches"): {
        "malformed_request",
        "invalid_json",
        "body_too_large",
        "not_json",
        "invalid_request",
        "idempotency_key_reused",
        *CALL_KEY,
    },
    ("get", "/v1/batches"): {"invalid_request", *CALL_KEY},
    ("get", "/v1/batches/{batch}"): {"batch_not_found", *CALL_KEY},
    ("post", "/v1/batches/{batch}/cancel"): {"batch_not_found", "batch_ended", *CALL_KEY},
    ("get", "/v1/models"): CALL_KEY,
    ("get", "/v1/models/{name}"): {"model_not_found", *CALL_KEY},
    ("get", "/api/v1/jobs/{job_id}/events"): {"job_not_found", *KEY},
    ("post", "/api/v1/generate"): SUBMIT,
    ("post", "/api/v1/complete"): SUBMIT,
    ("post", "/api/v1/chat"): SUBMIT,
    ("get", "/api/v1/conversations"): {"invalid_request", *KEY},
    ("get", "/api/v1/conversations/{conversation}"): {
        "conversation_not_found",
        "invalid_request",
        *KEY,
    },
    ("delete", "/api/v1/conversations/{conversation}"): {
        "conversation_not_found",
        "job_still_runs",
        *KEY,
    },
    ("post", "/api/v1/batches"): SUBMIT,
    ("get", "/api/v1/batches"): {"invalid_request", *KEY},
    ("get", "/api/v1/batches/{batch}"): {"job_batch_not_found", *KEY},
    ("post", "/api/v1/batches/{batch}/cancel"): {"job_batch_not_found", *KEY},
    ("post", "/api/v1/quote"): SUBMIT - {"insufficient_credit", "idempotency_key_reused"},
    ("get", "/api/v1/jobs/{job_id}"): {"job_not_found", *KEY},
    ("get", "/api/v1/jobs/{job_id}/ws"): {
        "job_not_found",
        "invalid_request",
        "upgrade_required",
        *KEY,
    },
    ("get", "/api/v1/jobs"): {"invalid_request", *KEY},
    ("post", "/api/v1/jobs/{job_id}/cancel"): {"job_not_found", *KEY},
    ("get", "/api/v1/models"): KEY,
    ("get", "/api/v1/usage"): {"invalid_request", *KEY},
    ("get", "/api/v1/webhooks/default/secret"): KEY,
    ("get", "/api/v1/webhooks/disabled"): KEY,
    ("post", "/api/v1/webhooks/enable"): {*BODY, *KEY},
    ("post", "/api/v1/webhooks/default/rotate"): KEY,
    ("get", "/api/v1/webhooks/public-key"): KEY,
    ("post", ENDPOINTS): {*BODY, "webhook_url_refused", "webhook_endpoint_limit", *KEY},
    ("get", ENDPOINTS): {"invalid_request", *KEY},
    ("get", f"{ENDPOINTS}/{{endpoint_id}}"): ENDPOINT,
    ("patch", f"{ENDPOINTS}/{{endpoint_id}}"): {*BODY, "webhook_url_refused", *ENDPOINT},
    ("delete", f"{ENDPOINTS}/{{endpoint_id}}"): ENDPOINT,
    ("get", f"{ENDPOINTS}/{{endpoint_id}}/secret"): ENDPOINT,
    ("post", f"{ENDPOINTS}/{{endpoint_id}}/rotate"): ENDPOINT,
    ("post", f"{ENDPOINTS}/{{endpoint_id}}/test"): {"webhook_endpoint_disabled", *ENDPOINT},
    ("post", f"{ENDPOINTS}/{{endpoint_id}}/replay"): {
        *BODY,
        "webhook_endpoint_disabled",
        *ENDPOINT,
    },
    ("get", DELIVERIES): {"invalid_request", *KEY},
    ("get", f"{DELIVERIES}/{{delivery_id}}"): {"webhook_delivery_not_found", *KEY},
    ("post", f"{DELIVERIES}/{{delivery_id}}/replay"): {
        "webhook_delivery_not_found",
        "webhook_delivery_pending",
        "webhook_endpoint_disabled",
        *ENDPOINT,
    },
    ("get", "/api/v1/health"): set(),
    ("get", "/api/v1/status"): set(),
    ("get", "/api/v1/metrics"): {"invalid_credential", "database_unavailable"},
    ("get", "/api/v1/openapi.json"): set(),
    ("get", "/api/v1/docs"): set(),
    ("get", "/api/v1/docs/{name}"): {"route_not_found"},
}
NO_JSON = ("/metrics", "/openapi.json", "/events", "/content", "/ws", "/docs", "/docs/{name}")
# No route's own: an address that is none, and what a worker says of a job.
ELSEWHERE = {
    "method_not_allowed",
    "stream_interrupted",  # when the stream has begun, and its status is sent
    "lease_lost",
    "engine_closed",
    "engine_lost",
    "engine_failed",
    "model_load_failed",
    "unknown_architecture",
}


def _operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def _codes(operation: dict[str, Any]) -> set[str]:
    texts = [
        response["description"]
        for response in operation["responses"].values()
        if _is_error(response.get("content", {}))
    ]
    return set(re.findall(r"`(\w+)`:", " ".join(texts)))


def _is_error(content: dict[str, Any]) -> bool:
    compatible = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    return "application/problem+json" in content or compatible.endswith("/ErrorEnvelope")


def _classes(root: type[GPTQueueError]) -> set[type[GPTQueueError]]:
    return {root}.union(*(_classes(each) for each in root.__subclasses__()))


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_document_is_served_without_a_key(api: Flask) -> None:
    assert api.test_client().get("/api/v1/openapi.json").get_json() == DOCUMENT


def test_every_route_of_the_application_is_in_the_document(api: Flask) -> None:
    routes = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in api.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    }
    assert routes == _operations().keys() == CODES.keys()


def test_every_operation_is_in_a_group_that_the_document_names() -> None:
    named = [each["name"] for each in DOCUMENT["tags"]]
    used = {operation["tags"][0] for operation in _operations().values()}
    assert used == set(named)


def test_every_name_of_an_operation_is_its_own() -> None:
    names = [operation["operationId"] for operation in _operations().values()]
    assert len(set(names)) == len(names) == len(OPERATIONS)


@pytest.mark.parametrize("route", CODES, ids=" ".join)
def test_every_error_that_a_route_can_give_is_documented(route: tuple[str, str]) -> None:
    assert _codes(_operations()[route]) == CODES[route] | {"internal_error"}


def test_every_error_there_is_belongs_to_some_route_or_to_none_by_name() -> None:
    documented = set().union(*map(_codes, _operations().values()))
    classes = _classes(GPTQueueError)
    known = {each.code for each in classes} | {compatible.code(each) for each in classes}
    assert known == documented | ELSEWHERE


def test_every_error_has_a_code_a_status_and_a_sentence_of_its_own() -> None:
    classes = _classes(GPTQueueError)
    assert classes == {each for each in vars(errors).values() if isinstance(each, type)} & classes
    assert len({each.code for each in classes}) == len(classes)
    for each in classes:
        assert 400 <= each.status < 600
        assert each().message.endswith("."), each


def test_a_status_stands_for_the_errors_that_have_it() -> None:
    classes = _classes(GPTQueueError)
    ours = {(each.code, str(each.status)) for each in classes}
    theirs = {(compatible.code(each), str(compatible.status(each))) for each in classes}
    for (_, path), operation in _operations().items():
        for status, response in operation["responses"].items():
            for code in re.findall(r"`(\w+)`:", response["description"]):
                assert (code, status) in (theirs if path.startswith("/v1/") else ours)


def test_every_route_but_the_open_ones_wants_a_key() -> None:
    assert DOCUMENT["security"] == [{"key": []}]
    assert {route for route, each in _operations().items() if each.get("security") == []} == OPEN


def test_a_submit_is_described_by_the_models_that_validate_it() -> None:
    operation = _operations()["post", "/api/v1/chat"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatBody"}
    schema = DOCUMENT["components"]["schemas"]["ChatBody"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["model", "messages"]
    assert (schema["properties"]["top_k"]["minimum"], schema["properties"]["top_k"]["maximum"]) == (
        0,
        1000,
    )
    answer = operation["responses"]["202"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/JobDocument"}


def test_a_list_is_described_with_its_query() -> None:
    parameters = _operations()["get", "/api/v1/jobs"]["parameters"]
    assert {each["name"] for each in parameters} == {"status", "model", "batch", "after", "limit"}
    usage = _operations()["get", "/api/v1/usage"]["parameters"]
    assert {each["name"] for each in usage} == {"from", "to"}


def test_every_answer_of_json_has_a_schema() -> None:
    for route, operation in _operations().items():
        ok = next(each for status, each in operation["responses"].items() if status < "300")
        if "204" not in operation["responses"] and not route[1].endswith(NO_JSON):
            assert "$ref" in ok["content"]["application/json"]["schema"], route


def test_headers_that_clients_may_send_are_described() -> None:
    names = {
        each["name"]
        for each in _operations()["post", "/api/v1/generate"]["parameters"]
        if each["in"] == "header"
    }
    assert names == {"Idempotency-Key", "Prefer"}
    read = _operations()["get", "/api/v1/jobs/{job_id}"]["parameters"]
    assert "Prefer" in {each["name"] for each in read if each["in"] == "header"}


def test_the_status_of_an_unready_platform_is_described() -> None:
    unready = _operations()["get", "/api/v1/status"]["responses"]["503"]
    assert unready["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/StatusDocument"
    }
