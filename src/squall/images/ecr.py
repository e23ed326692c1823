"""Amazon's registry (ECR): AWS keys are exchanged for a password that holds for twelve hours (API reference, "GetAuthorizationToken")."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime

from squall.images.causes import StepFailed
from squall.model.errors import InvalidError

KEY, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
#: ECR's hosts name the account and the region.
_HOST = re.compile(r"\d+\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.(amazonaws\.com(?:\.cn)?)")
_ACTION = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_TYPE = "application/x-amz-json-1.1"


async def login(host: str, secrets: Mapping[str, str]) -> tuple[str, str]:
    """User and password of the registry at `host`. The API is asked at AWS_ENDPOINT_URL_ECR or AWS_ENDPOINT_URL of the server, where these are set.

    Raises:
        InvalidError: half of the keys, or no region.
        StepFailed: AWS refuses the keys, or can't be reached.
    """
    if not (secrets.get(KEY) and secrets.get(SECRET)):
        raise InvalidError(f"the secret of {host} needs both {KEY} and {SECRET}")
    found = _HOST.fullmatch(host)
    region = found[1] if found else secrets.get("AWS_REGION") or secrets.get("AWS_DEFAULT_REGION")
    if not region:
        raise InvalidError(f"{host} names no region of AWS; the secret needs AWS_REGION")
    url = os.environ.get("AWS_ENDPOINT_URL_ECR") or os.environ.get("AWS_ENDPOINT_URL") or f"https://api.ecr.{region}.{found[2] if found else 'amazonaws.com'}"
    headers = sign(url, region, secrets, b"{}", datetime.now(UTC))
    answer = await asyncio.to_thread(_ask, urllib.request.Request(url.rstrip("/") + "/", b"{}", headers))
    user, _, password = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode().partition(":")
    return user, password


def sign(url: str, region: str, secrets: Mapping[str, str], body: bytes, now: datetime) -> dict[str, str]:
    """Headers of a signed POST (AWS General Reference, "Signature Version 4"). `now` is in UTC."""
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/ecr/aws4_request"
    headers = {"content-type": _TYPE, "host": urllib.parse.urlsplit(url).netloc, "x-amz-date": moment, "x-amz-target": _ACTION}
    if token := secrets.get(TOKEN):
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    key = f"AWS4{secrets[SECRET]}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return headers | {"authorization": f"AWS4-HMAC-SHA256 Credential={secrets[KEY]}/{scope}, SignedHeaders={names}, Signature={signature}"}


def _ask(request: urllib.request.Request) -> dict[str, list[dict[str, str]]]:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, list[dict[str, str]]] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2000).decode(errors="replace")
        raise StepFailed(f"AWS refuses the keys of the registry's secret ({error.code}): {said}") from error
    except OSError as error:
        raise StepFailed(f"AWS could not be asked for the registry's password at {request.host}: {error}") from error
