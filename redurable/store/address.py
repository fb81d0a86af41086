"""
Which server is meant: the URL given, the environment's, else the project's own embedded one. Never a silent other.
"""

from __future__ import annotations

from redurable.config import Address, parse_url, resolve_url
from redurable.errors import ConfigurationError

__all__ = ["address_of"]


def address_of(url: str | None = None) -> Address:
    """
    Return the server's address.

    Raises:
        ConfigurationError: BAD_URL; NO_SERVER when no URL is set and the project's own server does not run.
        StoreUnavailable: No URL is set, and the project's own server is there but does not answer.
    """
    text = resolve_url(url)
    if text is None:
        from redurable.store.server import find, silent

        own = find()
        if own is None:
            if (silent_one := silent()) is not None:
                raise silent_one
            raise ConfigurationError(
                "no Redis URL is set, and this project's own server does not run",
                code="NO_SERVER",
                hint="set REDIS_URL=redis://host:6379, or start one for this project: redurable dev",
            )
        text = own.url
    return parse_url(text)
