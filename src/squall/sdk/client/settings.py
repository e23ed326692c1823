"""Settings of the caller: environment variables, and the file ``~/.modal.toml`` of programs that are written for Modal."""

import os
from pathlib import Path
from typing import Any

from squall.model.errors import InvalidError
from squall.runner.context import in_container


def environment_of(name: str | None, default: str = "") -> str:
    """The environment that is meant: the given one, else that of SQUALL_ENVIRONMENT, MODAL_ENVIRONMENT or the file; else `default`."""
    return name or setting("environment") or default


def setting(key: str, profile: str | None = None, *, use_env: bool = True) -> str | None:
    """The value of a setting, for example of ``environment``; None where it has none. An empty variable sets nothing.

    Raises:
        InvalidError: the file can't be read.
    """
    if use_env:
        for prefix in ("SQUALL", "MODAL") if key == "environment" else ("MODAL",):
            if value := os.environ.get(f"{prefix}_{key.upper()}"):
                return value
    value = _profile(profile).get(key)
    return None if value is None or value == "" else str(value)


def _profile(name: str | None) -> dict[str, Any]:
    """A section of the file: the one that is named, else that of MODAL_PROFILE, the active one, or ``default``."""
    sections = profiles()
    name = name or os.environ.get("MODAL_PROFILE")
    if not name:
        name = next((key for key, section in sections.items() if section.get("active")), "default")
    return sections.get(name, {})


def settings_file() -> Path:
    """MODAL_CONFIG_PATH, else ``~/.modal.toml``."""
    return Path(os.environ.get("MODAL_CONFIG_PATH") or os.path.expanduser("~/.modal.toml"))


def profiles() -> dict[str, dict[str, Any]]:
    """The sections of the file; none in a container, whose settings are variables.

    Raises:
        InvalidError: it can't be read, or is no TOML.
    """
    path = settings_file()
    if in_container():
        return {}
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"the settings in {str(path)!r} can't be read: {getattr(error, 'strerror', None) or error}") from error
    import tomllib

    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"the settings in {str(path)!r} are not valid TOML: {error}") from error
    return {key: section for key, section in parsed.items() if isinstance(section, dict)}
