"""What builds take over from this machine: package indexes, certificates, proxies. None of it becomes part of a layer or its key."""

import configparser
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from squall.images import apt
from squall.images.settings import ImageSettings
from squall.runtime.contract import Bind

#: Where everything that the builder brings is seen inside a step. Below it nothing is kept in the layer.
INSIDE = "/.squall/build"

_SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_PORTS = {"http": 80, "https": 443, "ftp": 21, "socks": 1080, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
_URL = re.compile(rf"(?:{'|'.join(_PORTS)})://[^\s\"',;]+", re.I)
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
#: Variables with a bundle of certificates that common programs read, set for every step.
_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
)
#: Settings of uv that say where packages come from. Others of the host (cache, tool directories) mean nothing in a step.
_UV_VARIABLES = (
    "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX", "UV_INDEX_STRATEGY", "UV_CONSTRAINT",
    "UV_INSECURE_HOST", "UV_HTTP_TIMEOUT", "UV_OFFLINE", "UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_NATIVE_TLS", "UV_KEYRING_PROVIDER",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Variables and binds for a build step. For a step on the host itself only the variables count (`surroundings(inside=False)`)."""

    env: Mapping[str, str]
    binds: tuple[Bind, ...]


def surroundings(settings: ImageSettings, *, inside: bool = True, environ: Mapping[str, str] = os.environ) -> Surroundings:
    """What a step gets of this machine. Reads files of settings, so call it off the event loop.

    Args:
        inside: the step runs in a container, so files are bound into it.
    """
    binder = _Binder(inside)
    env = {name: environ[name] for variable in _PROXIES for name in (variable, variable.upper()) if name in environ}
    pip = pip_settings(environ)
    named = next((path for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if (path := environ.get(name)) and Path(path).is_file()), "")
    bundle = str(settings.ca_bundle or "") or named or pip.get("cert", "") or _SYSTEM_BUNDLE
    if Path(bundle).is_file():
        inner = binder.bind(bundle, f"{INSIDE}/ca.crt")
        env |= dict.fromkeys(_CA_VARIABLES, inner)
    for name, value in environ.items() if settings.ca_bundle is None else ():
        if ("_CA_" in name or name.startswith("SSL_CERT_FILE") or name.endswith(("_CAINFO", "_CA_CERTS"))) and Path(value).is_file():
            env[name] = env.get("SSL_CERT_FILE", value) if value == bundle else binder.bind(value, f"{INSIDE}/certificates/{name}")
    env |= _indexes(pip, environ, binder)
    config = next((path for path in _uv_configs(environ) if path.is_file()), None)
    if config is not None:
        env["UV_CONFIG_FILE"] = binder.bind(str(config), f"{INSIDE}/uv.toml")
    elif inside:
        env["UV_NO_CONFIG"] = "1"  # a pyproject.toml or uv.toml of the image must not redirect the build
    return Surroundings(env, tuple(binder.binds))


def pip_settings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """pip's effective settings for `install`, by the names of its options: files in pip's documented order, then `PIP_*` variables."""
    home = Path(environ.get("HOME") or "/root")
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        files: list[Path] = []
    else:
        site = [Path(part) / "pip/pip.conf" for part in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"))]
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        files = [*site, Path("/etc/pip.conf"), home / ".pip/pip.conf", config / "pip/pip.conf", Path(sys.prefix) / "pip.conf"]
        if environ.get("PIP_CONFIG_FILE"):
            files.append(Path(environ["PIP_CONFIG_FILE"]))
    settings: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip would complain; a build needs none of it
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {name.replace("_", "-"): " ".join(value.split()) for name, value in parser.items(section)}
    settings |= {name[4:].lower().replace("_", "-"): value for name, value in environ.items() if name.startswith("PIP_") and value}
    return settings


def services(environ: Mapping[str, str] = os.environ) -> tuple[tuple[str, int], ...]:
    """Host and port of the proxies, package indexes and archives that this machine's settings name, so that containers reach them in a private network too."""
    pip = pip_settings(environ)
    proxies = [environ.get(name, "") for variable in _PROXIES if variable != "no_proxy" for name in (variable, variable.upper())]
    texts = [text if "://" in text else f"http://{text}" for text in (*proxies, pip.get("proxy", "")) if text]
    texts += [pip.get(option, "") for option in ("index-url", "extra-index-url", "find-links")]
    texts += [value for name, value in environ.items() if name in _UV_VARIABLES or name.startswith("UV_INDEX_")]
    texts += [path.read_text(errors="replace") for path in _uv_configs(environ) if path.is_file()]
    texts += [*apt.connection_options(), *(source.uri for source in apt.host_sources())]
    found: dict[tuple[str, int], None] = {}
    for text in texts:
        for url in _URL.findall(text):
            with suppress(ValueError):
                parts = urlsplit(url)
                if parts.hostname:
                    found[parts.hostname, parts.port or _PORTS[parts.scheme.lower()]] = None
    return tuple(found)


class _Binder:
    """Collects what must be visible in the step, and says under which path it is."""

    def __init__(self, inside: bool) -> None:
        self.inside = inside
        self.binds: list[Bind] = []

    def bind(self, source: str, target: str) -> str:
        """`source` seen at `target`; on the host itself it is where it is."""
        if not self.inside:
            return source
        self.binds.append(Bind(Path(source).resolve(), target))
        return target

    def in_place(self, source: Path) -> None:
        """`source` seen at its own path, because other files point there."""
        if self.inside and not any(source.is_relative_to(bind.target) for bind in self.binds):
            self.binds.append(Bind(source, str(source)))


def _indexes(pip: Mapping[str, str], environ: Mapping[str, str], binder: _Binder) -> dict[str, str]:
    """pip's settings in pip's own words and in uv's, so that `pip install` in a command finds the same packages. Variables of uv itself win."""
    env: dict[str, str] = {}
    uv: dict[str, str] = {}
    places: list[str] = []
    for option, variable, separator in (("index-url", "UV_DEFAULT_INDEX", " "), ("extra-index-url", "UV_INDEX", " "), ("find-links", "UV_FIND_LINKS", ",")):
        if option in pip:
            uv[variable] = separator.join(pip[option].split())
            env[f"PIP_{option.upper().replace('-', '_')}"] = pip[option]
            places += pip[option].split()
    if "extra-index-url" in pip:
        uv["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # what pip does: the best version of all indexes
    for option, variable in (
        ("no-index", "UV_NO_INDEX"),
        ("trusted-host", "UV_INSECURE_HOST"),
        ("default-timeout", "UV_HTTP_TIMEOUT"),
        ("timeout", "UV_HTTP_TIMEOUT"),
    ):
        if option in pip:
            uv[variable] = pip[option]
            env[f"PIP_{option.upper().replace('-', '_')}"] = pip[option]
    if "constraint" in pip:
        names = [binder.bind(name, f"{INSIDE}/constraints/{number}.txt") for number, name in enumerate(pip["constraint"].split()) if Path(name).is_file()]
        uv["UV_CONSTRAINT"] = env["PIP_CONSTRAINT"] = " ".join(names)
    own = {name: value for name, value in environ.items() if value and (name in _UV_VARIABLES or name.startswith("UV_INDEX_"))}
    if own.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"}:
        uv = {name: value for name, value in uv.items() if name not in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_STRATEGY")}
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONSTRAINT"):
        places += own.get(name, "").replace(",", " ").split()
    for place in places:
        _bind_local(place, binder)
    return env | uv | own


def _bind_local(place: str, binder: _Binder) -> None:
    """Make a local index visible. Its pages point to files beside it (``../../files``), so the directory above comes along, unless that is a top-level one."""
    if place.startswith("file:"):
        path = Path(unquote(urlsplit(place).path))
        path = path.parent if len(path.parts) > 3 else path
    elif place.startswith("/"):
        path = Path(place)
    else:
        return
    if path.is_absolute() and path.exists() and len(path.parts) > 1:
        binder.in_place(path)
        for link in (path, *path.iterdir()) if path.is_dir() else (path,):
            if link.is_symlink() and link.exists():
                binder.in_place(link.resolve())


def _uv_configs(environ: Mapping[str, str]) -> list[Path]:
    config = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/root") / ".config")
    named = [Path(environ["UV_CONFIG_FILE"])] if environ.get("UV_CONFIG_FILE") else []
    return [*named, config / "uv/uv.toml", Path("/etc/uv/uv.toml")]


def uv_binary() -> Path:
    """uv of this installation.

    Raises:
        FileNotFoundError: it is not installed.
    """
    import uv

    return Path(uv.find_uv_bin())
