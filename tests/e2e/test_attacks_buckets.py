"""What mounts buckets has no rights, and goes where the owner of the server lets it go."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import squall
from squall.exception import PermissionDeniedError
from squall.runtime.confined import USER
from support.s3 import ELSEWHERE, S3

pytestmark = pytest.mark.root


def app_with(bucket: squall.CloudBucketMount) -> squall.App:
    app = squall.App("confined")

    @app.function(volumes={"/bucket": bucket}, serialized=True, name="names", retries=0)
    def names() -> list[str]:
        import os

        return sorted(os.listdir("/bucket"))

    return app


@pytest.fixture(scope="module", autouse=True)
def s3() -> Iterator[S3]:
    server = S3()
    server.make_bucket("confined-things")
    server.bucket("confined-things").put("there", b"1")
    yield server
    server.stop()


def program_of(bucket: str) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"s3fs", bucket.encode()]:
                return int(folder.name)
    raise AssertionError(f"no s3fs has {bucket}")


def test_the_program_behind_a_bucket_has_no_rights_and_no_files(data: Path, s3: S3) -> None:
    keys = squall.Secret.from_dict({"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"})
    with app_with(squall.CloudBucketMount("confined-things", s3.url, secret=keys)).run() as app:
        assert app.registered_functions["names"].remote() == ["there"]
        pid = program_of("confined-things")
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split() == [str(USER)] * 4
        assert status["Gid"].split() == [str(USER)] * 4
        assert status["Groups"].strip() == ""
        assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
        assert status["NoNewPrivs"] == "1"
        for kind in ("mnt", "pid", "ipc", "uts"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        root = Path(f"/proc/{pid}/root")
        python = Path(os.path.realpath(sys.base_prefix)).relative_to("/")
        assert not {"root", "home", "var", "run", "sys"} & set(os.listdir(root)) - {python.parts[0]}
        assert os.listdir(root / python.parent) == [python.name] or python.parts[0] == "usr"
        assert list((root / "old").iterdir()) == []
        assert set(os.listdir(root / "etc")) <= {"ssl", "ca-certificates", "nsswitch.conf", "resolv.conf", "hosts"}


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A store on another machine of the owner's network: in a network namespace, at an address that the server's settings name."""
    name = f"sqt{secrets.token_hex(3)}"
    for command in (
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b netns {name}",
        f"address add 10.213.7.1/30 dev {name}a",
        f"link set {name}a up",
        f"-n {name} address add {ELSEWHERE}/30 dev {name}b",
        f"-n {name} link set {name}b up",
        f"-n {name} link set lo up",
        f"-n {name} route add default via 10.213.7.1",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    server = S3(address=ELSEWHERE, within=("ip", "netns", "exec", name))
    try:
        server.make_bucket("elsewhere-things")
        server.bucket("elsewhere-things").put("far", b"1")
        yield server.url
    finally:
        server.stop()
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_the_program_reaches_no_more_than_buckets_may_be_at(data: Path, elsewhere: str) -> None:
    keys = squall.Secret.from_dict({"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"})
    with app_with(squall.CloudBucketMount("elsewhere-things", elsewhere, secret=keys)).run() as app:
        assert app.registered_functions["names"].remote() == ["far"]
        pid = program_of("elsewhere-things")
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        probe = "import socket, sys; s = socket.socket(); s.settimeout(5); print(s.connect_ex((sys.argv[1], int(sys.argv[2]))))"
        for address, port, reached in ((ELSEWHERE, elsewhere.rpartition(":")[2], True), ("169.254.169.254", "80", False), ("10.255.255.1", "80", False)):
            command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", probe, address, port]
            inside = subprocess.run(command, capture_output=True, text=True, check=True)
            assert (inside.stdout.strip() == "0") is reached, address


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://10.255.255.1:9000", "http://[::1]:9000", "http://0.0.0.0:9000", "http://2130706434"])
def test_a_bucket_at_a_private_address_is_the_owners_to_allow(data: Path, endpoint: str) -> None:
    with app_with(squall.CloudBucketMount("things", endpoint)).run() as app, pytest.raises(PermissionDeniedError, match="SQUALL_BUCKET_ENDPOINTS"):
        app.registered_functions["names"].remote()
