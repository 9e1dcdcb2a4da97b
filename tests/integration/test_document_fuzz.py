"""Requests made up from our own OpenAPI document: whatever is sent, the answer is one that the
document names, and never a server error.
"""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from pytest import Subtests
from schemathesis import Case
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.conftest import Customer
from tests.integration.live import working
from workers.process import Process

EXAMPLES = 15


@pytest.fixture
def document(api: Flask, process: Process) -> Iterator[OpenApiSchema]:
    """The document, and a worker that serves what is submitted."""
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", api)
    # A schema cannot say which models there are, what fits into a context, or what credit covers.
    accepted = schema.config.checks.positive_data_acceptance
    accepted.expected_statuses = [*accepted.expected_statuses, "400", "402", "422"]
    # The key is ours: a request that lacks nothing but the key would be sent whole.
    schema.config.generation.update(with_security_parameters=False)
    with working(process):
        yield schema


# Hypothesis sees that the worker's threads use chance, too, and takes them for its own.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_no_request_gets_an_answer_that_is_not_in_the_document(
    document: OpenApiSchema, mode: GenerationMode, customer: Customer, subtests: Subtests
) -> None:
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()
        with subtests.test(operation.label):
            tried += 1
            _try(operation, mode, {**customer.headers, "Accept-Encoding": "identity"})
    assert tried > 20


def _try(operation: APIOperation, mode: GenerationMode, headers: dict[str, str]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "fake"  # else hardly any would get further than that
        case.call_and_validate(headers=headers, checks=CHECKS.get_all())

    with suppress(Unsatisfiable):  # nothing can be wrong where nothing is sent
        check()
