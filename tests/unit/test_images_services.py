"""Which services the machine's settings name."""

from pathlib import Path

import pytest

from squall.gateway.wiring import _private_networks
from squall.images.host import services
from squall.model.errors import InvalidError


def test_of_proxies_and_indexes(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null", "https_proxy": "10.0.0.1:3128", "HTTP_PROXY": "http://user:word@proxy.example/"}
    environ |= {
        "PIP_INDEX_URL": "https://index.example/simple",
        "UV_INDEX": "one=http://10.0.0.2:8080/simple https://more.example:8443/",
        "no_proxy": "http://not.example",
    }
    found = set(services(environ))
    assert {("10.0.0.1", 3128), ("proxy.example", 80), ("index.example", 443), ("10.0.0.2", 8080), ("more.example", 8443)} <= found
    assert "not.example" not in {name for name, _ in found}


def test_what_the_owner_opens() -> None:
    assert [str(network) for network in _private_networks({"SQUALL_PRIVATE_NETWORKS": "10.1.0.0/16, 192.168.1.5"})] == ["10.1.0.0/16", "192.168.1.5/32"]
    with pytest.raises(InvalidError, match=r"SQUALL_PRIVATE_NETWORKS='10.1.0.1/16' must be IPv4 networks"):
        _private_networks({"SQUALL_PRIVATE_NETWORKS": "10.1.0.1/16"})
