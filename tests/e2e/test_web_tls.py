"""Web functions at a domain of one's own, with TLS by certificate files: a server of its own, a certificate of its own."""

import datetime
import re
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from .conftest import Runner

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("secure")

@app.function()
@squall.concurrent(max_inputs=10)
@squall.asgi_app()
def site():
    async def serve(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": scope["scheme"]})
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            headers = dict(scope["headers"])
            body = b" ".join([scope["scheme"].encode(), headers[b"x-forwarded-proto"], headers[b"host"]])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body + b" " + b"x" * (3 << 20)})
    return serve
"""


def certificate(folder: Path, domain: str) -> tuple[Path, Path]:
    """Of all names below the domain, signed by itself; and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, domain)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"*.{domain}")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


async def test_a_domain_with_a_certificate(own: Runner, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "squall.test")
    alone = own("server", "start", "--web-cert", str(cert))
    assert (alone.returncode, "--web-cert and --web-key go together" in alone.stderr) == (1, True), alone.stderr
    other = own("server", "start", "--web-cert", str(key), "--web-key", str(key))
    assert (other.returncode, "can't be used" in other.stderr) == (1, True), other.stderr
    started = own("server", "start", "--web", "127.0.0.1:0", "--web-domain", "squall.test", "--web-cert", str(cert), "--web-key", str(key))
    assert started.returncode == 0, started.stderr
    own.program("secure.py", PROGRAM)
    done = own("deploy", "secure.py")
    found = re.search(r"site +(https://\S+)", done.stderr)
    assert found is not None, done.stderr
    parts = urlsplit(found[1])
    assert parts.hostname == "main--secure-site.squall.test"
    context = ssl.create_default_context(cafile=cert)
    with socket.create_connection(("127.0.0.1", parts.port or 443), timeout=30) as raw, context.wrap_socket(raw, server_hostname=parts.hostname) as talk:
        talk.sendall(f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while part := talk.recv(1 << 16):
            received += part
    assert received.partition(b"\r\n\r\n")[2].split(b" ")[:3] == [b"https", b"https", parts.netloc.encode()]
    assert received.endswith(b"x" * (3 << 20))
    async with connect(f"wss://{parts.netloc}/", host="127.0.0.1", port=parts.port, ssl=context, server_hostname=parts.hostname, proxy=None) as socket_:
        assert await socket_.recv() == "wss"
    # Without TLS there is nothing to be had.
    with socket.create_connection(("127.0.0.1", parts.port or 443), timeout=30) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        assert not raw.recv(1 << 16).startswith(b"HTTP/1.1 200")
