"""The signature of a request to AWS is the one that AWS's own library makes."""

from datetime import UTC, datetime

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from squall.images import ecr


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("url", ["https://api.ecr.eu-central-1.amazonaws.com", "http://127.0.0.1:5000"])
def test_signature(url: str, token: str | None) -> None:
    secrets = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "se/cret+"} | ({"AWS_SESSION_TOKEN": token} if token else {})
    found = ecr.sign(url, "eu-central-1", secrets, b"{}", datetime.now(UTC))
    given = {name: value for name, value in found.items() if name in ("content-type", "x-amz-target")}
    request = AWSRequest("POST", f"{url}/", data=b"{}", headers=given)
    signer = SigV4Auth(Credentials("AKIA", "se/cret+", token), "ecr", "eu-central-1")
    request.context["timestamp"] = found["x-amz-date"]
    signer._modify_request_before_signing(request)
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert found["authorization"].endswith(f"Signature={signature}")
    assert signer.signed_headers(signer.headers_to_sign(request)) in found["authorization"]
