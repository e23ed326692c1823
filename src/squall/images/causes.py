"""From the log of a failed step to its cause, in one sentence that says what to do."""

import json
import re
from collections.abc import Callable

_COMPILERS = r"(?:x86_64-linux-gnu-|aarch64-linux-gnu-)?(?:gcc|g\+\+|cc|c\+\+|clang|rustc|cargo|cmake|gfortran)"
#: What `build-essential` does not bring, by the end of the command's name.
_PACKAGES_OF_COMPILERS = {"clang": ("clang",), "rustc": ("rustc", "cargo"), "cargo": ("rustc", "cargo"), "cmake": ("cmake",), "gfortran": ("gfortran",)}
#: Debian's packages of headers that packages from source ask for most.
_PACKAGES_OF_HEADERS = {
    "Python.h": "python3-dev",
    "ffi.h": "libffi-dev",
    "openssl/": "libssl-dev",
    "libpq-fe.h": "libpq-dev",
    "mysql.h": "default-libmysqlclient-dev",
    "libxml/": "libxml2-dev",
    "libxslt/": "libxslt1-dev",
    "zlib.h": "zlib1g-dev",
    "jpeglib.h": "libjpeg-dev",
    "curl/": "libcurl4-openssl-dev",
    "sqlite3.h": "libsqlite3-dev",
    "yaml.h": "libyaml-dev",
    "lzma.h": "liblzma-dev",
    "bzlib.h": "libbz2-dev",
    "portaudio.h": "portaudio19-dev",
    "sndfile.h": "libsndfile1-dev",
    "hdf5.h": "libhdf5-dev",
    "ldap.h": "libldap-dev",
    "sasl/": "libsasl2-dev",
    "graphviz/": "libgraphviz-dev",
    "numa.h": "libnuma-dev",
    "eigen3/": "libeigen3-dev",
}


def _shown(line: str) -> str:
    """A line that may be as long as a compiler's command: its beginning and its end, which says how it ended."""
    return line if len(line) <= 200 else f"{line[:120]} … {line[-77:]}"


def _apt_install(*packages: str) -> str:
    return f".apt_install({', '.join(json.dumps(package) for package in packages)})"


def _no_compiler(command: str) -> str:
    plain = re.sub(r"^\w+-linux-gnu-", "", command)
    # Its headers are the next that the build would miss.
    packages = _PACKAGES_OF_COMPILERS.get(plain) or ("build-essential", "python3-dev")
    return f"a package is built from source and needs {command}: add {_apt_install(*packages)} before it"


def _no_header(header: str) -> str:
    found = next((package for name, package in _PACKAGES_OF_HEADERS.items() if header == name or (name.endswith("/") and header.startswith(name))), None)
    if found is None:
        return f"the header {header} is not in the image: add the Debian package that has it (its name mostly ends in -dev) with .apt_install(...) before it"
    return f"the header {header} is not in the image: add {_apt_install(found)} before it"


#: How a message is looked for, and the sentence made of it. The first that matches decides, so what is specific stands before what is general.
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    # uv breaks its explanation at no fixed place, so white space is taken loosely.
    (
        re.compile(
            r"Failed to resolve requirements from\s+`(?:build-system\.requires|setup\.py build|setup\.py)`(?:(?!\n\n).)*?Because (\S+) was not found", re.S
        ),
        lambda m: f"a package is built from source, and its build tool {m[1]} can't be had: neither an index that the build reaches nor uv's cache has it",
    ),
    (
        re.compile(r"Because (\S+) was not found in the (?:package registry|provided package locations)"),
        lambda m: f"no version of {m[1]}: no index has a package of this name",
    ),
    (re.compile(r"Because there (?:is|are) no versions? of (\S+?)(?:==(\S+))? and"), lambda m: f"no version of {m[1]}" + (f" that is {m[2]}" if m[2] else "")),
    (
        re.compile(r"Because only ([^\n]{3,200}?) (?:is|are) available and [^\n]*?you require ([^\s,]+)"),
        lambda m: f"no version of {m[2]}: only {m[1]} is available",
    ),
    (
        re.compile(r"you require (\S+) and (?:you require )?(\S+?),? we can\s+conclude"),
        lambda m: f"{m[1]} and {m[2]} can't be had together",
    ),
    (
        re.compile(r"all versions of (\S+) depend on Python\S*|(\S+) (?:requires|depends on) Python\S+"),
        lambda m: f"no version of {m[1] or m[2]} for this version of Python",
    ),
    (
        re.compile(r"no wheels with a matching Python (?:ABI|implementation|version) tag", re.I),
        lambda m: "no wheel for this version of Python; choose another with debian_slim(python_version=...)",
    ),
    (re.compile(r"Failed to parse: `([^`]+)`"), lambda m: f"{m[1]!r} is not a valid requirement"),
    (re.compile(r"E: Unable to locate package (\S+)"), lambda m: f"no Debian package named {m[1]} in this release"),
    (re.compile(r"E: Version '([^']+)' for '([^']+)' was not found"), lambda m: f"no version {m[1]} of the Debian package {m[2]} in this release"),
    (re.compile(r"E: Package '(\S+)' has no installation candidate"), lambda m: f"the Debian package {m[1]} can't be installed in this release"),
    # skopeo's own words, and those of registries (distribution spec, "Error codes").
    (
        re.compile(
            r"unauthorized|authentication required|invalid username/password|access to the resource is denied|denied: |incorrect username or password", re.I
        ),
        lambda m: "the registry refuses the credentials; give a secret with REGISTRY_USERNAME and REGISTRY_PASSWORD, or log in on the server's machine",
    ),
    (re.compile(r"reading manifest (\S+) in (\S+?): (?:manifest unknown|name unknown)"), lambda m: f"{m[2]} has no image {m[1]}"),
    (re.compile(r"manifest unknown|name unknown|repository name not known"), lambda m: "the registry has no such image"),
    (re.compile(r"dial tcp (\S+): connect: connection refused"), lambda m: f"nothing answers at {m[1]}"),
    (re.compile(r"dial tcp: lookup (\S+?)(?: on \S+)?: "), lambda m: f"{m[1]} could not be resolved; has this machine a network?"),
    (re.compile(r"no image found in (?:manifest list|image index) for architecture (\S+),"), lambda m: f"the image is not made for this machine ({m[1]})"),
    (
        re.compile(r"(?:Temporary failure resolving|Could not resolve(?: host:)?|failed to lookup address information.*?) '?([\w.-]+)'?"),
        lambda m: f"{m[1]} could not be resolved; has this machine a network?",
    ),
    (re.compile(r"dns error|Name or service not known"), lambda m: "a host name could not be resolved; has this machine a network?"),
    (
        re.compile(r"invalid peer certificate: (\S+)|certificate verif\w+ failed", re.I),
        lambda m: "a server's certificate was not accepted; name your own authority in SSL_CERT_FILE of the server",
    ),
    (
        re.compile(
            rf"(?:command|error)[^\n]{{0,30}}?\b({_COMPILERS})'? (?:failed: No such file|not found)|(?:No such file or directory|not found): '?({_COMPILERS})'"
        ),
        lambda m: _no_compiler(m[1] or m[2]),
    ),
    (re.compile(r"fatal error: ([\w./+-]+\.(?:h|hpp|hh)): No such file or directory"), lambda m: _no_header(m[1])),
    (
        re.compile(r"\bpg_config executable not found"),
        lambda m: f"a package is built from source and needs pg_config: add {_apt_install('libpq-dev')} before it",
    ),
    (
        re.compile(r"(?:^|\n)\S*ld: cannot find -l([\w.+-]+)"),
        lambda m: f"the library {m[1]} is not in the image: add the Debian package that has it (often lib{m[1]}-dev) with .apt_install(...) before it",
    ),
    (re.compile(r"(?:^|\n)\S*sh: \d+: ([^\s:]+): not found"), lambda m: f"the command {m[1]} does not exist in the image"),
    (re.compile(r"(?:^|\n)\S*bash: (?:line \d+: )?([^\s:]+): command not found"), lambda m: f"the command {m[1]} does not exist in the image"),
    (re.compile(r"ModuleNotFoundError: No module named '([^']+)'"), lambda m: f"the Python module {m[1]} is not in the image at this step"),
    (
        re.compile(r"(?:^|\n)\s*([^\s:]+:\d+)(?::\d+)?: (?:fatal )?error: ([^\n]+)"),
        lambda m: f"the compiler refuses {m[1]}: {_shown(m[2])}",
    ),
)
#: A line that says what is wrong, and how far from the end it is looked for: hints how to get help often stand below it.
_TOLD = re.compile(r"(?:error|fatal|ERROR|FATAL|E|[\w.]*(?:Error|Exception))(?:\[[^\]]*\])?: ")
_TOLD_LINES = 15
_FULL_DISK = re.compile(r"No space left on device|os error 28\b|don't have enough free space|\bENOSPC\b|Disk quota exceeded")


class StepFailed(Exception):
    """A step failed; the message is the cause. `step` is its number and title, where it is not the one that the builder was told to make."""

    def __init__(self, cause: str, *, exit_code: int | None = None, log_tail: str = "") -> None:
        super().__init__(cause)
        self.exit_code, self.log_tail = exit_code, log_tail
        self.step: tuple[int, str] | None = None


def disk_full(log: str) -> bool:
    """Whether the step failed because the disk is full."""
    return _FULL_DISK.search(log) is not None


def cause(log: str, exit_code: int | None, signal: int | None, *, oom: bool = False, memory_mib: int | None = None) -> str:
    """The cause in one sentence without a final stop, from the last lines of the log and how the command ended."""
    if oom:
        used = f"more than the {memory_mib} MiB that the step may have" if memory_mib is not None else "up the machine's memory"
        return f"the command used {used} and was ended"
    for pattern, sentence in _RULES:
        if (match := pattern.search(log)) is not None:
            return sentence(match)
    how = f"signal {signal} ended the command" if signal is not None else f"the command ended with exit code {exit_code}"
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("+ ")]
    if told := [line for line in lines[-_TOLD_LINES:] if _TOLD.match(line)]:
        return f"{how}; it said: {_shown(told[-1])}"
    return f"{how}; it said last: {_shown(lines[-1])}" if lines else how
