"""The host's own apt: where it takes Debian from, and how it gets there. A base is made from the same mirrors, if need be for another release."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Names under which the releases of the archive go. Other suites on a host are of other vendors.
_RELEASES = ("bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable")
_SUITE = re.compile(rf"^({'|'.join(_RELEASES)})(-updates|-security|/updates)?$")
_ARCHIVE_PATH = re.compile(r"/debian(-security|-archive)?(/|$)|/archive/debian(-security)?/")
_OPTIONS = re.compile(r"^\[([^\]]*)\]\s*")


@dataclass(frozen=True, slots=True)
class Source:
    """One archive of packages, as in sources.list(5)."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self) -> str:
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


def debian_sources(release: str, etc: Path = Path("/etc/apt")) -> tuple[Source, ...]:
    """The host's sources of the Debian archive, for `release`. Empty on a host that has none (another distribution)."""
    found: dict[Source, None] = {}
    for source in host_sources(etc):
        match = _SUITE.match(source.suite)
        if match is None or "main" not in source.components or not _is_archive(source):
            continue
        part = "-security" if match[2] == "/updates" else match[2] or ""
        components = tuple(name for name in source.components if name in ("main", "contrib", "non-free", "non-free-firmware"))
        found[Source(source.uri, release + part, components, source.signed_by)] = None
    return tuple(found)


def host_sources(etc: Path = Path("/etc/apt")) -> Iterator[Source]:
    """Every binary source of the host, in both formats of sources.list(5)."""
    lists = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]
    for path in lists:
        if path.is_file():
            yield from _one_line(path.read_text(errors="replace"))
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        yield from _deb822(path.read_text(errors="replace"))


def connection_options() -> tuple[str, ...]:
    """How the host's apt connects (proxies, certificates, timeouts), as lines of apt.conf(5). Empty where there is no apt."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    wanted = re.compile(r"Acquire::(https?|ftp|Retries)\b", re.I)
    # Lines with an empty value are only the names of sections.
    return tuple(line for line in dump.splitlines() if wanted.match(line) and not line.endswith('"";'))


def _is_archive(source: Source) -> bool:
    return "debian-archive" in source.signed_by or (not source.signed_by and _ARCHIVE_PATH.search(source.uri) is not None)


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        if kind != "deb":
            continue
        rest, options = rest.strip(), ""
        if (match := _OPTIONS.match(rest)) is not None:
            options, rest = match[1], rest[match.end() :]
        words = rest.split()
        signed_by = next((word.partition("=")[2] for word in options.split() if word.lower().startswith("signed-by=")), "")
        if len(words) >= 3:
            yield Source(words[0], words[1], tuple(words[2:]), signed_by)


def _deb822(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields = _fields(paragraph)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        signed_by = fields.get("signed-by", "")
        signed_by = signed_by if signed_by.startswith("/") else ""  # a key written into the file itself can't be a path
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()), signed_by)


def _fields(paragraph: str) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
