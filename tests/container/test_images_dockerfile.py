"""Dockerfiles: what their instructions do, in real containers; which files and layers they share; what is refused."""

import io
import secrets
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from squall.images.builder import Builder, BuiltImage
from squall.images.registry import architecture
from squall.images.settings import ImageSettings
from squall.model.errors import ImageBuildError, InvalidError, UnsupportedError
from squall.model.specs import ImageSpec, SourceFile, Step
from support.images import BASE, BOX, Studio, studio
from support.registry import Registry, registry

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


async def base(it: Studio, shop: Registry) -> str:
    """A small image in the registry, without Python but with what RUN lines need."""
    reference = f"{shop}/base:1"
    if not shop.pushed:
        await it.builder.export((await it.builder.ensure(ImageSpec(BOX))).id, reference)
        shop.pushed.append(reference)
    return reference


def context(it: Studio, files: Mapping[str, bytes]) -> tuple[SourceFile, ...]:
    return tuple(it.file(f"/.squall/context/{name}", content, executable=name.endswith(".sh")) for name, content in files.items())


async def lines(it: Studio, text: str, files: Mapping[str, bytes] = {}, **fields: object) -> BuiltImage:
    """The image of some lines over the base."""
    step = Step("dockerfile_commands", {"commands": text.strip().splitlines(), **fields}, context(it, files))
    return await it.builder.ensure(ImageSpec((BASE, step)), scope="main/app", progress=it.events.append)


async def whole(it: Studio, text: str, files: Mapping[str, bytes] = {}, secrets: Mapping[str, str] = {}, **fields: object) -> BuiltImage:
    step = Step("from_dockerfile", {"text": text, **fields}, context(it, files), tuple(secrets))
    return await it.builder.ensure(ImageSpec((step,)), secrets=secrets, progress=it.events.append)


async def test_variables_directories_and_shells(it: Studio) -> None:
    image = await lines(
        it,
        r"""
ARG VERSION=1.0 EMPTY
ENV A=one B="two words" C=$VERSION PATH=/opt/x:$PATH
ENV OLD style value
WORKDIR /srv
WORKDIR app
RUN echo "$A-$B-$C-$VERSION-${MISSING:-none}-$EMPTY" > out \
    # a comment within
    && pwd >> out
ENV D=${A:+set} E=${NOTHING:-fallback} F=\$A G=a\ b H='not $A' I="\"$A\"  x"
ARG TARGETARCH
ARG BUILDPLATFORM
RUN echo "$TARGETARCH $BUILDPLATFORM" > platform
SHELL ["/bin/bash", "-c"]
RUN echo ${BASH_VERSION:+bash} >> out
RUN ["/bin/echo", "$A"]
RUN <<EOF
false
echo document
[[ 1 == 1 ]] && echo in-bash
EOF
LABEL a=b
EXPOSE 80
CMD ["run", "it"]
ENTRYPOINT /bin/env
""",
        build_args={"VERSION": "2.0"},
    )
    assert await it.run_in(image, "cat", "/srv/app/out") == "one-two words-2.0-2.0-none-\n/srv/app\nbash\n"
    assert image.env["PATH"].startswith("/opt/x:/usr/local/bin:")
    assert [image.env[name] for name in "ABCDEFGHI"] == ["one", "two words", "2.0", "set", "fallback", "$A", "a b", "not $A", '"one"  x']
    assert await it.run_in(image, "cat", "/srv/app/platform") == f"{architecture()} linux/{architecture()}\n"
    assert image.env["OLD"] == "style value"
    assert (image.workdir, image.cmd, image.entrypoint) == ("/srv/app", ("run", "it"), ("/bin/bash", "-c", "/bin/env"))
    assert [event.line for event in it.events if event.line] == ["$A", "document", "in-bash"]


async def test_copies_from_the_context(it: Studio) -> None:
    files = {"a.txt": b"a", "b.txt": b"b", "dir/c.txt": b"c", "dir/sub/d.sh": b"#!/bin/sh\necho d\n", "z.md": b"z"}
    image = await lines(
        it,
        """
WORKDIR /w
COPY a.txt renamed.txt
COPY a.txt b.txt many/
COPY dir /dir
COPY *.txt /glob/
COPY a.txt /tmp
COPY --chown=www-data:root --chmod=640 a.txt /owned
COPY ["b.txt", "with space.txt"]
COPY <<one <<"two" /documents/
x=$HOME
one
y=$HOME
two
COPY . .
""",
        files,
    )
    script = (
        "cat renamed.txt; ls many /dir /glob /tmp/a.txt; /dir/sub/d.sh; stat -c '%U %G %a' /owned /dir/c.txt; "
        "stat -c %a /tmp; cat 'with space.txt' /documents/*; ls"
    )
    assert await it.run_in(image, "sh", "-c", script) == (
        "a/tmp/a.txt\n\n/dir:\nc.txt\nsub\n\n/glob:\na.txt\nb.txt\n\nmany:\na.txt\nb.txt\nd\nwww-data root 640\nroot root 644\n1777\nbx=$HOME\ny=$HOME\n"
        "a.txt\nb.txt\ndir\nmany\nrenamed.txt\nwith space.txt\nz.md\n"
    )


async def test_only_what_is_copied_is_in_the_key(it: Studio) -> None:
    text = "COPY a.txt /a\nRUN cat /proc/sys/kernel/random/uuid > /uuid"
    first = await lines(it, text, {"a.txt": b"a", "other": b"1"})
    assert (await lines(it, text, {"a.txt": b"a", "other": b"2"})).layers == first.layers
    assert (await lines(it, text, {"a.txt": b"b", "other": b"2"})).layers != first.layers


async def test_archives_are_unpacked_by_add_only_and_inside_the_image(it: Studio) -> None:
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w:gz") as archive:
        entry = tarfile.TarInfo("in/side.txt")
        entry.size, entry.uid, entry.gid = 4, 7, 8
        archive.addfile(entry, io.BytesIO(b"side"))
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
        evil = tarfile.TarInfo("out/squall-evil")
        evil.size = 1
        archive.addfile(evil, io.BytesIO(b"x"))
    image = await lines(it, "ADD box.tgz /box\nADD --chown=5:6 box.tgz /own\nCOPY box.tgz /box.tgz", {"box.tgz": box.getvalue()})
    assert await it.run_in(image, "stat", "-c", "%u:%g", "/box/in/side.txt", "/box", "/own/in/side.txt", "/own/in") == "7:8\n0:0\n5:6\n5:6\n"
    script = "cat /box/in/side.txt; test -f /box.tgz && test ! -e /etc/squall-evil && echo fine"
    assert await it.run_in(image, "sh", "-c", script) == "sidefine\n"
    assert not Path("/etc/squall-evil").exists()


async def test_what_is_mounted_while_a_line_runs_stays_outside(it: Studio) -> None:
    """As uv's own documentation has it: files of the context, and a cache that the next build of the app finds again."""
    files = {"uv.lock": b"lock", "src/a.py": b"a", "src/b/run.sh": b"#!/bin/sh\necho run\n"}
    mark = secrets.token_hex(8)
    text = f"""
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/x,id={mark} --mount=type=bind,source=uv.lock,target=uv.lock \\
    --mount=type=bind,source=src,target=/src --mount=type=tmpfs,target=/fast \\
    cat uv.lock /src/a.py > out && /src/b/run.sh >> out && touch /fast/x && ! touch /src/new 2> /dev/null && echo kept > /root/.cache/x/kept
RUN --mount=type=cache,target=/other,id={mark} cat /other/kept >> out
RUN --mount=target=/whole cat /whole/src/a.py >> out
"""
    image = await lines(it, text, files)
    assert await it.run_in(image, "sh", "-c", "cat out") == "lockarun\nkept\na"
    names = {str(path.relative_to(layer)) for layer in image.layers[1:] for path in layer.rglob("*")}
    assert not [name for name in names if name.endswith(("kept", "a.py", "run.sh", "uv.lock", "fast/x"))]


async def test_stages(it: Studio, shop: Registry) -> None:
    reference = await base(it, shop)
    text = f"""
# syntax=docker/dockerfile:1
ARG BASE={reference}
FROM ${{BASE}} AS build
WORKDIR /src
COPY hello.sh .
RUN ./hello.sh > made.txt && ln -s made.txt link && mkdir sub && echo deep > sub/deep && chmod 700 sub
FROM build AS unused
RUN exit 1
FROM scratch AS data
COPY --from=build /src/sub /data
FROM $BASE
COPY --from=build /src/made.txt /src/sub/de* /out/
COPY --from=build /src /all
COPY --from=data / /copied/
COPY --from=0 /src/link /followed
COPY --from={reference} /etc/debian_version /version
USER app
RUN id -un > /tmp/who
"""
    hello = {"hello.sh": b"#!/bin/sh\necho made\n"}
    image = await whole(it, text, hello)
    script = (
        "cat /out/made.txt /out/deep /all/link /copied/data/deep /followed /tmp/who; readlink /all/link; stat -c '%a %u' /all/sub; test -s /version && echo v"
    )
    assert await it.run_in(image, "sh", "-c", script) == "made\ndeep\nmade\ndeep\nmade\napp\nmade.txt\n700 0\nv\n"
    assert image.python == ""
    # Nothing is done the second time, and no stage is looked at.
    assert "done" in [event.state for event in it.events]
    it.events.clear()
    assert (await whole(it, text, hello)) == image
    assert {event.state for event in it.events} == {"hit"}
    with pytest.raises(ImageBuildError, match="exit code 1"):
        await whole(it, text, hello, target="unused")


async def test_python_is_added(it: Studio, shop: Registry) -> None:
    reference = await base(it, shop)
    image = await whole(it, f"FROM {reference}\nRUN echo x > /x", add_python="3.11")
    assert await it.run_in(image, image.python, "-c", "print(open('/x').read(), end='')") == "x\n"
    assert (image.workdir, image.python_version) == ("/root", "3.11")


async def test_the_nearest_python_is_added_where_the_settings_say_so(it: Studio, shop: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", "http://127.0.0.1:1")
    spec = ImageSpec((Step("from_registry", {"tag": await base(it, shop), "add_python": "3.10"}),))
    with pytest.raises(ImageBuildError, match=r'no Python 3.10 can be had .*"3.11".*SQUALL_PYTHON_FALLBACK=nearest'):
        await it.builder.ensure(spec, progress=it.events.append)
    near = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=ImageSettings(python_fallback="nearest"))
    image = await near.ensure(spec, progress=it.events.append)
    assert image.python_version == "3.11"
    assert await it.run_in(image, image.python, "-c", "import sys; print(sys.version_info[:2])") == "(3, 11)\n"
    assert any("add_python puts in 3.11 instead" in event.line for event in it.events)


async def test_secrets_are_in_the_environment_of_run_lines_only(it: Studio, shop: Registry) -> None:
    reference = await base(it, shop)
    text = f'FROM {reference}\nRUN --mount=type=secret,id=TOKEN test "$TOKEN" = s3cret-88 && echo "it is $TOKEN"'
    image = await whole(it, text, secrets={"TOKEN": "s3cret-88"})
    assert [event.line for event in it.events if "it is" in event.line] == ["it is ***"]
    assert "TOKEN" not in image.env
    assert await whole(it, text, secrets={"TOKEN": "another"}) == image


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", InvalidError, "does not begin with FROM"),
        ("RUN x", InvalidError, "does not begin with FROM"),
        ("FROM x\nRUNN y", InvalidError, "line 2: 'RUNN' is not an instruction"),
        ("FROM x\n\nCOPY a", InvalidError, "line 3: COPY takes a source and a destination"),
        ("FROM x\nCOPY missing /x", InvalidError, "line 2: COPY missing: there is no such file"),
        ("FROM x\nCOPY ../up /x", InvalidError, "outside the build context"),
        ("FROM x\nRUN <<END\necho", InvalidError, "END has no end"),
        ("FROM $NOTHING", InvalidError, "names no image"),
        ("FROM x AS\n", InvalidError, "FROM takes an image"),
        ("FROM x\nSHELL bash", InvalidError, "SHELL takes a list"),
        ("FROM x\nRUN --mount=type=bind,from=y,target=/y true", UnsupportedError, "line 2: RUN --mount of type bind with from="),
        ("FROM x\nRUN --mount=type=ssh true", UnsupportedError, "--mount of type ssh"),
        ("FROM x\nRUN --mount=type=cache true", InvalidError, "needs a target"),
        ("FROM x\nRUN --mount=target=/x,source=y true", InvalidError, "y: there is no such file"),
        ("FROM x\nENV A='b", InvalidError, "no closing quotation"),
        ("FROM x\nARG A='b", InvalidError, "line 2: ARG: no closing quotation"),
        ("FROM x\nENV A='open", InvalidError, "ENV"),
    ],
)
async def test_mistakes_are_told_with_their_line(it: Studio, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await whole(it, text)
    assert len(it.built()) == 1


async def test_failing_lines_say_which(it: Studio) -> None:
    with pytest.raises(ImageBuildError, match="exit code 3") as caught:
        await lines(it, "RUN echo first\nRUN echo oh >&2; exit 3\nRUN echo never")
    assert caught.value.step == "RUN echo oh >&2; exit 3"
    assert (caught.value.step_index, caught.value.steps) == (3, 4)
    with pytest.raises(ImageBuildError, match="no user nobody-here"):
        await lines(it, "COPY --chown=nobody-here a /a", {"a": b""})
