"""Images that come from a registry, and go to one: a real one, on loopback."""

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from squall.images.builder import Builder, BuiltImage
from squall.images.settings import ImageSettings
from squall.model.errors import ImageBuildError, InvalidError
from squall.model.specs import ImageSpec, Step
from support.images import BOX, Studio, run, studio
from support.registry import HTPASSWD, PASSWORD, USER, Registry, registry
from support.s3 import S3

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def shop() -> Iterator[Registry]:
    with registry() as running:
        yield running


@pytest.fixture
async def it() -> AsyncIterator[Studio]:
    async with studio() as made:
        yield made
        assert made.unfinished() == []


def pulled(reference: str, **args: object) -> ImageSpec:
    return ImageSpec((Step("from_registry", {"tag": reference, **args}),))


def tiny(it: Studio, **files: str) -> ImageSpec:
    """An image of a few files, a layer each, and nothing else: quicker to push than a Debian."""
    return ImageSpec((Step("from_scratch"), *(Step("add_local_file", {}, (it.file(f"/{name}", text.encode()),)) for name, text in files.items())))


def read(image: BuiltImage, name: str) -> str:
    return next(layer / name for layer in reversed(image.layers) if (layer / name).exists()).read_text()


async def small(it: Studio, shop: Registry, name: str = "small") -> str:
    """An image without Python in the registry."""
    spec = ImageSpec(
        (
            *BOX,
            Step("env", {"vars": {"GREETING": "hello world", "WHO": "me"}}),
            Step("workdir", {"path": "/srv"}),
            Step("RUN", {"title": "RUN one", "argv": ["/bin/sh", "-c", "echo one > /srv/one; echo two > /srv/two"], "env": {}, "user": ""}),
            Step("RUN", {"title": "RUN two", "argv": ["/bin/sh", "-c", "exec 3< /srv/one; : > /srv/three"], "env": {}, "user": ""}),
            Step("cmd", {"argv": ["/bin/sh"]}),
        )
    )
    image = await it.builder.ensure(spec, progress=it.events.append)
    reference = f"{shop}/team/{name}:1"
    await it.builder.export(image.id, reference)
    return reference


async def test_push_remove_pull_run(it: Studio, shop: Registry) -> None:
    made = await it.ensure(
        run("echo pushed > /pushed; rm /etc/debian_version; chmod 4755 /usr/bin/env"), Step("env", {"vars": {"A": "1"}}), Step("workdir", {"path": "/srv"})
    )
    reference = f"{shop}/team/image:1"
    assert await it.builder.export(made.id, reference) == f"docker://{reference}"
    async with studio(base=False) as other:
        image = await other.builder.ensure(pulled(reference), progress=other.events.append)
        assert (image.python, image.python_version, image.workdir, image.env["A"]) == ("/usr/local/bin/python3", "3.11", "/srv", "1")
        told = await other.run_in(
            image, "sh", "-c", "cat /pushed; ls /etc/debian_version 2>&1 | wc -l; stat -c '%a %u' /usr/bin/env /tmp /root; pip --version | cut -c1-3"
        )
        assert told == "pushed\n1\n4755 0\n1777 0\n700 0\npip\n"
        assert await other.run_in(image, image.python, "-c", "import ssl, json; print(json.dumps(1))") == "1\n"
        # A step over it, and a function's library, as over any other base.
        more = await other.builder.ensure(ImageSpec((*pulled(reference).steps, Step("pip_install", {"packages": ["six"]}))))
        assert await other.run_in(more, more.python, "-c", "import six; print(six.PY3)") == "True\n"
        await other.builder.runner_layer(more)
        assert other.builder.peek(pulled(reference)) == image


async def test_images_of_one_base_share_its_layers(it: Studio, shop: Registry) -> None:
    references = []
    for name in ("one", "two"):
        made = await it.builder.ensure(tiny(it, shared="shared", name=name))
        await it.builder.export(made.id, f"{shop}/shared/{name}:1")
        references.append(f"{shop}/shared/{name}:1")
    async with studio(base=False) as other:
        one, two = [await other.builder.ensure(pulled(reference)) for reference in references]
        assert one.layers[:2] == two.layers[:2]
        assert one.layers[2] != two.layers[2]
        assert (read(two, "name"), read(two, "shared")) == ("two", "shared")


async def test_an_image_without_python_gets_one(it: Studio, shop: Registry) -> None:
    reference = await small(it, shop)
    bare = await it.builder.ensure(pulled(reference))
    assert (bare.python, bare.env["GREETING"], bare.workdir, bare.cmd) == ("", "hello world", "/srv", ("/bin/sh",))
    assert await it.run_in(bare, "/bin/sh", "-c", "cat one; ls /srv; stat -c %a /bin/id /tmp") == "one\none\nthree\ntwo\n4755\n1777\n"
    with pytest.raises(InvalidError, match="has no Python"):
        await it.builder.runner_layer(bare)
    with pytest.raises(ImageBuildError, match="has no Python"):
        await it.builder.ensure(ImageSpec((*pulled(reference).steps, Step("pip_install", {"packages": ["six"]}))))
    image = await it.builder.ensure(ImageSpec((*pulled(reference, add_python="3.11").steps, Step("pip_install", {"packages": ["six", "numpy"]}))))
    code = "import sys, ssl, six, numpy, subprocess; print(sys.version_info[:2], numpy.arange(3).sum(), end='')"
    code += "; print(subprocess.check_output([sys.executable, '-c', 'print(7)']))"
    assert await it.run_in(image, "python", "-c", code) == "(3, 11) 3b'7\\n'\n"
    assert await it.run_in(image, image.python, "-c", "import six; print(six.PY3)") == "True\n"
    await it.builder.runner_layer(image)


async def test_setup_commands_come_before_python(it: Studio, shop: Registry) -> None:
    reference = await small(it, shop)
    image = await it.builder.ensure(pulled(reference, setup_dockerfile_commands=["ENV X=1", "RUN echo $X$GREETING > /x"], add_python="3.11"))
    assert await it.run_in(image, "python", "-c", "print(open('/x').read())") == "1hello world\n\n"


async def test_what_a_tag_means_is_kept_until_forced(it: Studio, shop: Registry) -> None:
    reference = f"{shop}/moving/tag:latest"
    for version in ("one", "two"):
        await it.builder.export((await it.builder.ensure(tiny(it, version=version))).id, reference)
        assert read(await it.builder.ensure(pulled(reference)), "version") == "one"
    forced = ImageSpec((Step("from_registry", {"tag": reference}, force=True),))
    assert read(await it.builder.ensure(forced), "version") == "two"


async def test_the_base_comes_from_the_registry_that_the_settings_name(it: Studio, shop: Registry) -> None:
    await it.builder.export((await it.builder.ensure(tiny(it, python="3.10"))).id, f"{shop}/library/python:3.10-slim")
    there = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=ImageSettings(registry=f"{shop}/library"))
    image = await there.ensure(ImageSpec((Step("debian_slim", {"python_version": "3.10"}), Step("env", {"vars": {"A": "1"}}))))
    await there.close()
    assert (read(image, "python"), image.env["A"]) == ("3.10", "1")


@pytest.mark.parametrize(("tag", "cause"), [("team/nothing:1", "has no image|no such image"), ("team/small:nothing", "has no image|no such image")])
async def test_a_tag_that_does_not_exist(it: Studio, shop: Registry, tag: str, cause: str) -> None:
    with pytest.raises(ImageBuildError, match=cause) as caught:
        await it.builder.ensure(pulled(f"{shop}/{tag}"))
    assert caught.value.step == f"from_registry {shop}/{tag}"
    assert len(it.built()) == 1


async def test_nobody_answers(it: Studio) -> None:
    with pytest.raises(ImageBuildError, match="nothing answers at"):
        await it.builder.ensure(pulled("127.0.0.1:1/x:1"))


@pytest.mark.parametrize("name", ["", "Upper/case", "a b", "-x", "x:", "http://x/y"])
async def test_names_that_no_image_can_have(it: Studio, name: str) -> None:
    with pytest.raises(InvalidError):
        await it.builder.ensure(pulled(name))


async def test_credentials(it: Studio) -> None:
    with registry(htpasswd=HTPASSWD) as private:
        made = await it.builder.ensure(tiny(it, private="private"))
        good, wrong = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}, {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": "guess"}
        reference = f"{private}/x:1"
        with pytest.raises(ImageBuildError, match="refuses the credentials"):
            await it.builder.export(made.id, reference, secrets=wrong)
        await it.builder.export(made.id, reference, secrets=good)
        spec = ImageSpec((Step("from_registry", {"tag": reference}, secrets=tuple(good)),))
        for secrets in (wrong, {"REGISTRY_USERNAME": "", "REGISTRY_PASSWORD": ""}):
            with pytest.raises(ImageBuildError, match="refuses the credentials"):
                await it.builder.ensure(spec, secrets=secrets)
        with pytest.raises(InvalidError, match="REGISTRY_PASSWORD"):
            await it.builder.ensure(spec, secrets={"REGISTRY_USERNAME": USER})
        built = it.built()
        image = await it.builder.ensure(spec, secrets=good)
        assert read(image, "private") == "private"
        assert len(it.built() - built) == 3
        for path in (*it.data.rglob("meta.json"), *it.data.rglob("log"), *it.data.rglob("*.json")):
            if path.is_file():
                assert PASSWORD not in path.read_text(errors="replace")


#: What AWS gives for keys in moto's account, and a key as Google's registries take it, each hashed as in `HTPASSWD`.
CLOUDS = "\n".join(
    (
        "AWS:$2b$04$HpNLXr95.lQpSk4zyIxa.eOJBtS1nkzAWTl.OnOZHv6Gh44T4/GDy",
        "_json_key:$2b$04$HpNLXr95.lQpSk4zyIxa.eN008NeEdvZ9y0gIJdxmaX3DYodxEJh6",
    )
)
GOOGLE_KEY = '{"type": "service_account", "private_key": "key-7e1d"}'


async def test_credentials_of_clouds(it: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a registry that takes the password of ECR's API, which moto speaks, and Google's user with a key."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret-key", "AWS_REGION": "eu-central-1"}
    google = {"SERVICE_ACCOUNT_JSON": GOOGLE_KEY}
    with registry(htpasswd=HTPASSWD + CLOUDS + "\n") as private, contextlib.ExitStack() as stack:
        aws, closed = S3(), S3(closed=True)
        stack.callback(aws.stop)
        stack.callback(closed.stop)
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", aws.url)
        made, reference = await it.builder.ensure(tiny(it, cloud="cloud")), f"{private}/cloud:1"
        await it.builder.export(made.id, reference, secrets=google)
        for secrets in (keys, google):
            assert read(await it.builder.ensure(spec_of(reference, secrets), secrets=secrets), "cloud") == "cloud"
        refused: tuple[tuple[dict[str, str], type[Exception], str], ...] = (
            ({"AWS_ACCESS_KEY_ID": "AKIA"}, InvalidError, "needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            ({**keys, "AWS_REGION": ""}, InvalidError, "names no region"),
            ({"SERVICE_ACCOUNT_JSON": "{"}, InvalidError, "is not the JSON"),
            ({"SERVICE_ACCOUNT_JSON": "{}"}, ImageBuildError, "refuses the credentials"),
        )
        for wrong, error, says in refused:
            with pytest.raises(error, match=says):
                await it.builder.ensure(spec_of(reference, wrong), secrets=wrong)
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", closed.url)
        with pytest.raises(ImageBuildError, match="AWS refuses the keys"):
            await it.builder.ensure(spec_of(reference, keys), secrets=keys)
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:1")
        with pytest.raises(ImageBuildError, match="AWS could not be asked"):
            await it.builder.ensure(spec_of(reference, keys), secrets=keys)
        for path in (*it.data.rglob("log"), *it.data.rglob("*.json")):
            if path.is_file():
                assert not [planted for planted in ("secret-key", "auth-token", "key-7e1d") if planted in path.read_text(errors="replace")], path


def spec_of(reference: str, secrets: dict[str, str]) -> ImageSpec:
    return ImageSpec((Step("from_registry", {"tag": reference}, secrets=tuple(secrets), force=True),))


async def test_export_to_a_directory(it: Studio, shop: Registry, tmp_path: Path) -> None:
    reference = await small(it, shop, "exported")
    made = await it.builder.ensure(ImageSpec((*pulled(reference).steps, run("echo x > /srv/x; ln /srv/x /srv/y"), run("exec 3< /srv/x; : > /srv/z"))))
    target = f"oci:{tmp_path}/layout:it"
    await it.builder.export(made.id[:12], target)
    shown = json.loads(subprocess.run(["skopeo", "inspect", target], check=True, capture_output=True, text=True).stdout)
    assert len(shown["Layers"]) == len(made.layers)
    assert "PATH=" in "".join(shown["Env"])
    again = f"oci:{tmp_path}/again:it"
    await it.builder.export(made.id, again)
    assert json.loads(subprocess.run(["skopeo", "inspect", again], check=True, capture_output=True, text=True).stdout)["Digest"] == shown["Digest"]
    for wrong in ("oci:relative", "name-without-registry", "ftp:/x"):
        with pytest.raises(InvalidError):
            await it.builder.export(made.id, wrong)


async def test_a_pull_by_two_builders_happens_once(it: Studio, shop: Registry) -> None:
    import asyncio

    reference = await small(it, shop, "twice")
    other = Builder(data=it.data, driver=it.driver, blobs=it.blobs)
    first, second = await asyncio.gather(it.builder.ensure(pulled(reference)), other.ensure(pulled(reference)))
    await other.close()
    assert first.layers == second.layers
