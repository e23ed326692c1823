"""An object store that speaks S3 on loopback: moto's server, in a process of its own. Google's XML API is the same where Squall uses it."""

import json
import os
import subprocess
import sys
import urllib.request

from squall.store.object_store import ObjectStore, s3_store

#: An address of a private network, which the servers of the tests let buckets be at.
ELSEWHERE = "10.213.7.2"

_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address=sys.argv[1], port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


class S3:
    """Takes every key. With `closed` it takes none: all are wrong. `within`: what it is run by, for example in a network namespace."""

    def __init__(self, *, closed: bool = False, address: str = "127.0.0.1", within: tuple[str, ...] = ()) -> None:
        env = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "0"} if closed else dict(os.environ)
        argv = [*within, sys.executable, "-W", "ignore", "-c", _PROGRAM, address]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
        assert self._process.stdout is not None
        self.url = f"http://{address}:{int(self._process.stdout.readline())}"

    def make_bucket(self, name: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=20):
            pass

    def bucket(self, name: str) -> ObjectStore:
        """As its owner sees it."""
        return s3_store(name, endpoint=self.url, region="", key="any", secret="any", token="", path_style=True)

    def service_account(self) -> str:
        """A key file of Google's kind, for this server. Its client signs tokens itself, which nobody here looks into."""
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        facts = {"type": "service_account", "client_email": "squall@example.com", "private_key_id": "one", "private_key": key.decode()}
        return json.dumps({**facts, "gcs_base_url": self.url})

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
