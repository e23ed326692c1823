"""The builder methods of `Image` that install packages: Debian's, Python's, and conda's."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Self

from squall.model.errors import InvalidError
from squall.sdk.image import steps
from squall.sdk.image.steps import Env, Words
from squall.sdk.source.sources import Local, LocalFile
from squall.sdk.storage.secret import Secret


class Packages(ABC):
    """What can be installed. Of each method: `env` and `secrets` are the step's own variables, `force_build` builds it although it is there, and `gpu` is
    accepted, but no step is given one.
    """

    @abstractmethod
    def _building(
        self, kind: str, args: dict[str, Any], files: tuple[Local, ...], force: bool, secrets: Collection[Secret] | None, late: steps.Late | None = None
    ) -> Self:
        """The image with one more step that has a layer."""

    def apt_install(
        self, *packages: Words, force_build: bool = False, env: Env = None, secrets: Collection[Secret] | None = None, gpu: str | None = None
    ) -> Self:
        """Debian packages."""
        words = steps.flatten("apt_install", packages)
        args = {"packages": words, **steps.options("apt_install", env, gpu)}
        return self._building("apt_install", args, (), force_build, secrets) if words else self

    def pip_install(
        self,
        *packages: Words,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """Python packages, with requirement specifiers as for pip."""
        words = steps.flatten("pip_install", packages)
        args = {"packages": words, **steps.index_options(find_links, index_url, extra_index_url, pre, extra_options), **steps.options("pip_install", env, gpu)}
        return self._building("pip_install", args, (), force_build, secrets) if words else self

    def uv_pip_install(
        self,
        *packages: Words,
        requirements: list[str] | None = None,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        uv_version: str | None = None,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """Python packages and `requirements` files, installed by the server's uv; `uv_version` is not supported yet."""
        more = steps.options("uv_pip_install", env, gpu, uv_version=uv_version)
        words = steps.flatten("uv_pip_install", packages)
        if isinstance(requirements, str):
            raise InvalidError("requirements of uv_pip_install is a list of file names, not text")
        files = steps.requirement_files(requirements or ())
        args = {"packages": words, **steps.index_options(find_links, index_url, extra_index_url, pre, extra_options), **more}
        return self._building("uv_pip_install", args, files, force_build, secrets) if words or files else self

    def pip_install_from_requirements(
        self,
        requirements_txt: str,
        find_links: str | None = None,
        *,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """The packages of a local requirements file."""
        args = steps.index_options(find_links, index_url, extra_index_url, pre, extra_options) | steps.options("pip_install_from_requirements", env, gpu)
        return self._building("pip_install_from_requirements", args, steps.requirement_files([requirements_txt]), force_build, secrets)

    def pip_install_from_pyproject(
        self,
        pyproject_toml: str,
        optional_dependencies: Sequence[str] = (),
        *,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """The dependencies of a local project, and those of its named extras; not the project itself."""
        args = steps.index_options(find_links, index_url, extra_index_url, pre, extra_options) | steps.options("pip_install_from_pyproject", env, gpu)
        late = steps.pyproject(steps.local_path("pyproject_toml", pyproject_toml), list(optional_dependencies))
        return self._building("pip_install_from_pyproject", args, (), force_build, secrets, late)

    def pip_install_private_repos(
        self,
        *repositories: str,
        git_user: str,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        gpu: str | None = None,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        force_build: bool = False,
    ) -> Self:
        """Packages of private repositories, such as ``github.com/owner/repository@branch``. git is installed first.

        Args:
            secrets: one has the token, as ``GITHUB_TOKEN`` or ``GITLAB_TOKEN``.

        Raises:
            InvalidError: no secret.
        """
        words = steps.flatten("pip_install_private_repos", repositories)
        if not words:
            return self
        if not secrets:
            raise InvalidError("pip_install_private_repos needs secrets=[...] with GITHUB_TOKEN or GITLAB_TOKEN")
        args = {"repositories": words, "git_user": git_user, **steps.index_options(find_links, index_url, extra_index_url, pre, extra_options)}
        args |= steps.options("pip_install_private_repos", env, gpu)
        return self.apt_install("git")._building("pip_install_private_repos", args, (), force_build, secrets)

    def uv_sync(
        self,
        uv_project_dir: str = "./",
        *,
        force_build: bool = False,
        groups: list[str] | None = None,
        extras: list[str] | None = None,
        frozen: bool = True,
        extra_options: str = "",
        uv_version: str | None = None,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """The dependencies of a local project as its ``uv.lock`` has them; not the project itself. They go into the image's own Python."""
        args = {"groups": list(groups or ()), "extras": list(extras or ()), "frozen": frozen, "extra_options": extra_options}
        late = steps.project_files(steps.local_path("uv_project_dir", uv_project_dir), {"pyproject.toml": True, "uv.lock": frozen}, "uv_sync")
        return self._building("uv_sync", args | steps.options("uv_sync", env, gpu, uv_version=uv_version), (), force_build, secrets, late)

    def poetry_install_from_file(
        self,
        poetry_pyproject_toml: str,
        poetry_lockfile: str | None = None,
        *,
        ignore_lockfile: bool = False,
        force_build: bool = False,
        with_: Sequence[str] = (),
        without: Sequence[str] = (),
        only: Sequence[str] = (),
        poetry_version: str | None = "latest",
        old_installer: bool = False,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """The dependencies of a local Poetry project as its lock file has them (by default the ``poetry.lock`` beside it); not the project itself."""
        args = {"with": list(with_), "without": list(without), "only": list(only), "poetry_version": poetry_version, "ignore_lockfile": ignore_lockfile}
        project = steps.local_path("poetry_pyproject_toml", poetry_pyproject_toml)
        lock = steps.local_path("poetry_lockfile", poetry_lockfile) if poetry_lockfile is not None else project.with_name("poetry.lock")
        files: tuple[Local, ...] = (LocalFile(project, "/pyproject.toml"),)
        if not ignore_lockfile:
            files += (LocalFile(lock, "/poetry.lock"),)
        args |= steps.options("poetry_install_from_file", env, gpu, old_installer=old_installer)
        return self._building("poetry_install_from_file", args, files, force_build, secrets)

    def micromamba_install(
        self,
        *packages: Words,
        spec_file: str | None = None,
        channels: Sequence[str] = (),
        force_build: bool = False,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Self:
        """Conda packages, in an image that begins with `micromamba`."""
        words = steps.flatten("micromamba_install", packages)
        files: tuple[Local, ...] = ()
        if spec_file is not None:
            local = steps.local_path("spec_file", spec_file)
            files = (LocalFile(local, f"/spec{local.suffix}"),)
        args = {"packages": words, "channels": list(channels), **steps.options("micromamba_install", env, gpu)}
        return self._building("micromamba_install", args, files, force_build, secrets) if words or files else self
