"""What the API's description promises, tried with made-up requests (schemathesis): every operation, of a server of its own."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, ignored_auth, response_schema_conformance, status_code_conformance

from .conftest import Runner, make_data_directory, stop_server

pytestmark = pytest.mark.root

#: These end the server, or build images and start containers of whatever is made up.
NOT_TRIED = {"StopServer", "BuildImage", "StartApp", "Deploy"}
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, ignored_auth)
EXAMPLES = 2


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A server's address, and a token for it."""
    data = make_data_directory()
    runner = Runner(data, tmp_path)
    assert runner("server", "start", "--web", "127.0.0.1:0").returncode == 0
    _, secret = runner("token", "create").stdout.split()
    listening = json.loads(runner("server", "status", "--json").stdout)["listening"]
    yield next(f"http://127.0.0.1:{place.rpartition(':')[2]}" for place in listening if place.startswith("web ")), secret
    log = runner("server", "logs", "-n", "10000").stdout
    stop_server(data)
    shutil.rmtree(data)
    assert "Traceback" not in log, log


def test_every_operation_answers_as_described(own: tuple[str, str]) -> None:
    url, secret = own
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {secret}"
        schema = schemathesis.openapi.from_dict(session.get(f"{url}/api/v1/openapi.json").json())
        tried = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.definition.raw["operationId"] in NOT_TRIED:
                continue
            modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if operation.body else [])]
            for mode in modes:

                @settings(
                    max_examples=EXAMPLES, phases=[Phase.generate], database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: Case) -> None:
                    response = case.call(base_url=url, session=session, timeout=20)
                    case.validate_response(response, checks=CHECKS)

                ask()
            tried += 1
        assert tried > 60
