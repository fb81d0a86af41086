"""Packages that only some codecs need."""

from __future__ import annotations

import importlib
from typing import Any

from redurable.errors import ConfigurationError

__all__ = ["extra"]


def extra(module: str, name: str) -> Any:
    """Return *module*; without it say which extra (*name*) brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise ConfigurationError(
            f"this codec needs the package {package}", code="BAD_CODEC",
            hint=f"install it: pip install 'redurable[{name}]'",
        ) from error  # fmt: skip
