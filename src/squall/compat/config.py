"""`modal.config`: settings that programs read. There are no profiles or tokens here, so only what has a meaning has a value."""

import logging
import os
from typing import Any

logger = logging.getLogger("modal-client")


class Config:
    """Values of ``MODAL_*`` environment variables, else the reference's defaults."""

    def get(self, key: str, profile: str | None = None, use_env: bool = True) -> Any:
        """The value of a setting; None where it has none."""
        if key == "environment":
            return os.environ.get("SQUALL_ENVIRONMENT") or os.environ.get("MODAL_ENVIRONMENT")
        return os.environ.get(f"MODAL_{key.upper()}")

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


config = Config()


def config_profiles() -> list[str]:
    """None."""
    return []
