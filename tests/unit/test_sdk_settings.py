"""Which environment is meant where nothing is said: SQUALL_ENVIRONMENT, MODAL_ENVIRONMENT, the settings' file."""

from pathlib import Path

import pytest

from squall.compat.config import config, config_profiles, config_set_active_profile
from squall.exception import InvalidError, NotFoundError, UnsupportedError
from squall.sdk.client.settings import environment_of, profiles
from squall.sdk.storage.environment import Environment

FILE = """
[default]
environment = "of-default"

[work]
active = true
environment = "of-work"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "modal.toml"
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(path))
    for name in ("SQUALL_ENVIRONMENT", "MODAL_ENVIRONMENT", "MODAL_PROFILE", "SQUALL_CONTAINER_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    return path


def test_the_order(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (environment_of(None), environment_of(None, "main")) == ("", "main")
    file.write_text(FILE)
    assert environment_of(None) == "of-work"
    monkeypatch.setenv("MODAL_PROFILE", "default")
    assert environment_of(None) == "of-default"
    monkeypatch.setenv("MODAL_ENVIRONMENT", "of-modal")
    assert environment_of(None) == "of-modal"
    monkeypatch.setenv("SQUALL_ENVIRONMENT", "of-squall")
    assert environment_of(None) == "of-squall"
    assert Environment.from_context().name == "of-squall"
    assert environment_of("given") == "given"


def test_what_a_program_reads_is_what_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(FILE)
    assert config.get("environment") == config["environment"] == environment_of(None) == "of-work"
    assert config.get("environment", "default") == "of-default"
    assert config_profiles() == ["default", "work"]
    monkeypatch.setenv("MODAL_ENVIRONMENT", "of-modal")
    assert (config["environment"], config.get("environment", use_env=False)) == ("of-modal", "of-work")
    assert config["token_id"] is None


def test_a_container_has_its_variables_and_no_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(FILE)
    monkeypatch.setenv("SQUALL_CONTAINER_SOCKET", "/nowhere")
    assert environment_of(None) == ""


@pytest.mark.parametrize(("content", "message"), [(b"[default\n", "not valid TOML"), (b"\xff", "can't be read")])
def test_a_file_that_is_none(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidError, match=message):
        environment_of(None)


def test_a_setting_is_overridden_in_this_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(FILE)
    for name in ("SQUALL_ENVIRONMENT", "MODAL_LOGLEVEL"):  # undone after the test
        monkeypatch.setenv(name, "before")
    config.override_locally("environment", "overridden")
    config.override_locally("loglevel", "debug")
    assert environment_of(None) == config["environment"] == "overridden"
    assert {"environment": "overridden", "loglevel": "debug"}.items() <= config.to_dict().items()
    with pytest.raises(UnsupportedError, match="include_internal=True"):
        config.to_dict(include_internal=True)


def test_a_profile_is_made_the_active_one(file: Path) -> None:
    file.write_text(FILE + 'token_secret = "kept"\n')
    config_set_active_profile("default")
    assert environment_of(None) == "of-default"
    assert profiles()["work"] == {"environment": "of-work", "token_secret": "kept"}
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotFoundError, match="'elsewhere'"):
        config_set_active_profile("elsewhere")
