"""Images: nothing to do, a cold build beside buildah's, one changed file of ten thousand, starting from a large image."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.process import CACHE, Contestant
from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import environment
from squall.images.host import surroundings
from squall.images.place import tree_bytes
from squall.images.settings import ImageSettings

METRICS = {
    "noop_check_ms": Metric("ms", 30.0),
    "noop_check_2gb_ms": Metric("ms", 30.0),
    "cold_build_s": Metric("s"),
    "cold_build_ratio_to_buildah": Metric("", 0.5),
    "one_file_change_s": Metric("s", 0.5),
    "first_upload_10k_files_s": Metric("s"),
    "ten_images_bytes_ratio": Metric("", 1.01),
    "base_start_s": Metric("s"),
    "big_image_start_s": Metric("s"),
    "big_image_start_ratio": Metric("", 1.3),
}

#: Of this suite alone: its layers take 2.5 GB, and other suites end the server that they share.
STATE = CACHE / "images-state"
SQUALL = [str(Path(sys.executable).parent / "squall")]

_CONTAINERFILE = """FROM localhost/squall-bench-base
{env}
RUN apt-get -q update && apt-get -qy install --no-install-recommends jq
RUN pip install numpy pandas
"""


def run(peers: Sequence[str], quick: bool) -> Report:
    """Measure. buildah takes part whether named or not: the targets are ratios to it.

    Raises:
        Invalid: a build gave something else than it should, or buildah is missing.
    """
    report, env = Report(METRICS), {**environment(), "SQUALL_DATA_DIR": str(STATE)}
    STATE.mkdir(parents=True, exist_ok=True, mode=0o711)
    rounds = 1 if quick else 3
    say("the base, and an image of 2 GB in 60 layers (made once, kept)")
    try:
        with Contestant("squall", "images", env=env) as squall, _Buildah.prepared(squall, env) as buildah:
            for name, values in squall.ask("noop", 5 if quick else 25).items():
                for value in values:
                    report.add("noop_check_ms" if name == "small" else "noop_check_2gb_ms", value)
            for number in range(rounds):
                say(f"cold builds, round {number + 1} of {rounds}")
                mine, theirs = squall.ask("cold")["seconds"], buildah.build_s(cached=False)
                report.add("cold_build_s", mine)
                report.add("cold_build_s", theirs, "buildah")
                report.add("cold_build_ratio_to_buildah", mine / theirs)
            report.add("noop_check_ms", buildah.build_s(cached=True) * 1e3, "buildah")
            say("one file of ten thousand")
            changed = squall.ask("one_file", 3 if quick else 7)
            report.add("first_upload_10k_files_s", changed["first"])
            for value in changed["seconds"]:
                report.add("one_file_change_s", value)
            say("ten images over one base")
            report.add("ten_images_bytes_ratio", _bytes_ratio(squall.ask("ten"), env))
            say("containers of the base and of the large image")
            starts = squall.ask("start", 5 if quick else 15)
            for name, place in starts["places"].items():
                if not str(place[0]).startswith("ct-") or place[1] == starts["own"]:
                    raise Invalid(f"the function of the {name} image ran outside a container: {place}")
            for base, large in zip(starts["base"], starts["large"], strict=True):
                report.add("base_start_s", base)
                report.add("big_image_start_s", large)
            report.add("big_image_start_ratio", statistics.median(starts["large"]) / statistics.median(starts["base"]))
    finally:
        subprocess.run([*SQUALL, "server", "stop"], env=env, capture_output=True, timeout=60)
    return report


def _bytes_ratio(images: dict[str, Any], env: dict[str, str]) -> float:
    """Bytes of disk of ten images, relative to their base's alone: what lies in several images' layers is counted as often as it lies on the disk."""

    def layers(image: str) -> list[str]:
        shown = subprocess.run([*SQUALL, "image", "inspect", image, "--json"], check=True, capture_output=True, env=env).stdout
        return [layer["path"] for layer in json.loads(shown)["layers"]]

    (base,) = layers(images["base"])
    found = [layers(image) for image in images["ids"]]
    if any(paths[0] != base or len(paths) != 2 for paths in found) or len({paths[1] for paths in found}) != 10:
        raise Invalid(f"the images do not lie over one base, or are not ten: {found}")
    inodes = {}
    for path in dict.fromkeys(path for paths in found for path in paths):
        for folder, names, files in os.walk(path):
            for name in (".", *names, *files):
                status = os.lstat(os.path.join(folder, name))
                inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values()) / tree_bytes(Path(base))[0]


class _Buildah:
    """buildah with a store of its own, the same base, and the same package indexes, as root and without isolation of the network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        around = surroundings(ImageSettings())
        self._volumes = [word for bind in around.binds for word in ("--volume", f"{bind.source}:{bind.target}:ro")]
        # One instruction: with --layers each becomes a layer, and these are no part of what is compared.
        words = " ".join(f"{name}={json.dumps(value)}" for name, value in around.env.items() if name != "UV_NO_CONFIG")
        (folder / "Containerfile").write_text(_CONTAINERFILE.format(env=f"ENV {words}"))

    @classmethod
    @contextmanager
    def prepared(cls, squall: Contestant, env: dict[str, str]) -> Iterator["_Buildah"]:
        if shutil.which("buildah") is None:
            raise Invalid("buildah is not installed: apt install buildah")
        folder = Path(tempfile.mkdtemp(prefix="buildah-", dir=CACHE))
        try:
            made = cls(folder)
            image = squall.ask("cold")["id"]
            command = [*SQUALL, "image"]
            layers = json.loads(subprocess.run([*command, "inspect", image, "--json"], check=True, capture_output=True, env=env).stdout)["layers"]
            rows = json.loads(subprocess.run([*command, "list", "--json"], check=True, capture_output=True, env=env).stdout)
            base = next((row["id"] for row in rows if row["layers"] == 1 and row["recipe"] == layers[0]["title"]), None)
            if base is None:
                raise Invalid("the base is no image of the server's")
            subprocess.run([*command, "export", base, f"oci:{folder}/base:base"], check=True, capture_output=True, env=env)
            store = f"containers-storage:[overlay@{folder}/root+{folder}/run]localhost/squall-bench-base"
            copied = subprocess.run(["skopeo", "--insecure-policy", "copy", f"oci:{folder}/base:base", store], capture_output=True, text=True)
            if copied.returncode != 0:
                raise Invalid(f"the base could not be given to buildah: {copied.stderr.strip()[-600:]}")
            yield made
        finally:
            subprocess.run(["buildah", *cls._store(folder), "rmi", "--all", "--force"], capture_output=True)
            # buildah mounts its own directory on itself, and leaves that.
            subprocess.run(["umount", "--lazy", str(folder / "root/overlay")], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)

    def build_s(self, *, cached: bool) -> float:
        """Seconds of a build; `cached`: with all its layers there from the build before."""
        begin = time.perf_counter()
        how = ["--layers"] if cached else ["--layers", "--no-cache"]
        self._run(
            "bud", "--isolation", "chroot", "--network", "host", *how, *self._volumes, "-t", "bench", "-f", str(self.folder / "Containerfile"), str(self.folder)
        )
        return time.perf_counter() - begin

    @staticmethod
    def _store(folder: Path) -> list[str]:
        return ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]

    def _run(self, *words: str) -> str:
        done = subprocess.run(["buildah", *self._store(self.folder), *words], capture_output=True, text=True, env={**os.environ, "HOME": str(self.folder)})
        if done.returncode != 0:
            raise Invalid(f"buildah {words[0]} failed: {done.stderr.strip()[-600:]}")
        return done.stdout


def say(text: str) -> None:
    print(f"• {text}", file=sys.stderr, flush=True)
