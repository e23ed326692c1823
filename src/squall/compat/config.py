"""`modal.config`: settings that programs read. Of them, only ``environment`` has a meaning here."""

import logging
from typing import Any

from squall.sdk.client.settings import profiles, setting

logger = logging.getLogger("modal-client")


class Config:
    """Values of ``MODAL_*`` environment variables, else those of the active profile in ``~/.modal.toml``."""

    def get(self, key: str, profile: str | None = None, use_env: bool = True) -> Any:
        """The value of a setting; None where it has none."""
        return setting(key, profile, use_env=use_env)

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


config = Config()


def config_profiles() -> list[str]:
    """The sections of the file."""
    return list(profiles())
