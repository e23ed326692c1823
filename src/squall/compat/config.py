"""`modal.config`: settings that programs read. Of them, only ``environment`` has a meaning here."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from squall.model.errors import NotFoundError
from squall.sdk.client.settings import profiles, setting, settings_file
from squall.sdk.refusals import refuse_given

logger = logging.getLogger("modal-client")


class Config:
    """Values of ``MODAL_*`` environment variables, else those of the active profile in ``~/.modal.toml``."""

    def get(self, key: str, profile: str | None = None, use_env: bool = True) -> Any:
        """The value of a setting; None where it has none."""
        return setting(key, profile, use_env=use_env)

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def override_locally(self, key: str, value: str) -> None:
        """Set it for this process and those that it starts, by its variable."""
        os.environ[f"{'SQUALL' if key == 'environment' else 'MODAL'}_{key.upper()}"] = value

    def to_dict(self, *, include_internal: bool = False) -> dict[str, Any]:
        """Every setting that has a value, and ``environment``. Raises UnsupportedError: `include_internal`."""
        refuse_given("Config.to_dict", include_internal=include_internal)
        names = {"environment", *(key.removeprefix("MODAL_").lower() for key in os.environ if key.startswith("MODAL_"))}
        for section in profiles().values():
            names.update(section)
        return {name: self.get(name) for name in sorted(names - {"active", "profile", "config_path"})}

    def __repr__(self) -> str:
        return repr({name: "***" if "token" in name or "secret" in name else value for name, value in self.to_dict().items()})


config = Config()


def config_profiles() -> list[str]:
    """The sections of the file."""
    return list(profiles())


def config_set_active_profile(profile: str) -> None:
    """Make a section of the file the active one, by writing the file.

    Raises:
        NotFoundError: there is no such section.
    """
    path = settings_file()
    if profile not in profiles():
        raise NotFoundError(f"{str(path)!r} has no profile {profile!r}")
    lines = [line for line in path.read_text("utf-8").splitlines() if not re.match(r"\s*active\s*=", line)]
    header = next(place for place, line in enumerate(lines) if line.strip() in (f"[{profile}]", f'["{profile}"]', f"['{profile}']"))
    lines.insert(header + 1, "active = true")
    new = Path(f"{path}.new")
    new.touch(0o600)  # it may have tokens
    new.write_text("\n".join(lines) + "\n", "utf-8")
    new.replace(path)
