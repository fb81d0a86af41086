"""
Tokens of promises: a text that resolves one promise, and proves by itself that it may.

A token names the intent, the promise and when it expires, and is signed (HMAC-SHA-256, cut to 16 bytes) with a secret
that lies in the namespace's meta, made once. `rotate` makes a new one; tokens of the old one hold until `forget`.
Nobody can make one who cannot read the secret. That it is used once is the promise's doing: the first value stands.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import uuid

from redurable.errors import TokenRefused
from redurable.store.keys import meta_key
from redurable.store.store import Store

__all__ = ["PREFIX", "read", "rotate", "sign"]

PREFIX = "rdp_"
_MAC = 16
_HEAD = 2 + 5 + 16  # number of the secret, expiry in seconds, intent


def _mac(secret: str, body: bytes) -> bytes:
    return hmac.digest(bytes.fromhex(secret), b"redurable promise\0" + body, hashlib.sha256)[:_MAC]


def sign(kept: str, intent: str, key: str, expires_ms: int) -> str:
    """Return the token of the promise *key* of *intent* under the secret *kept*; the same for the same arguments."""
    number, secret = kept.split(":")
    seconds = min(expires_ms // 1000, (1 << 40) - 1)
    body = int(number).to_bytes(2, "big") + seconds.to_bytes(5, "big") + uuid.UUID(intent).bytes + key.encode()
    return PREFIX + base64.urlsafe_b64encode(body + _mac(secret, body)).decode().rstrip("=")


async def read(store: Store, token: str) -> tuple[str, str]:
    """
    Return the intent and the key that *token* speaks for.

    Raises:
        TokenRefused: BAD_TOKEN, it was not made here, or its secret was forgotten; TOKEN_EXPIRED.
    """
    try:
        text = token.removeprefix(PREFIX)
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        body, mac = data[:-_MAC], data[-_MAC:]
        number, seconds = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:7], "big")
        intent, key = str(uuid.UUID(bytes=body[7:_HEAD])), body[_HEAD:].decode()
    except (ValueError, binascii.Error) as error:
        raise _bad() from error
    kept, old = await store.mux.command("HMGET", meta_key(store.namespace), "secret", f"secret:{number}")
    current, secret = kept.decode().split(":")
    if int(current) != number:
        secret = old.decode() if old is not None else ""
    # b64decode lets the last characters vary: only the very text that was given out is a token
    if not token.startswith(PREFIX) or not secret or not hmac.compare_digest(mac, _mac(secret, body)):
        raise _bad()
    if not hmac.compare_digest(token, sign(f"{number}:{secret}", intent, key, seconds * 1000)):
        raise _bad()
    now, _ = await store.mux.command("TIME")
    if int(now) >= seconds:
        raise TokenRefused("the token has expired", code="TOKEN_EXPIRED", hint="resolve by id and name, or ask again")
    return intent, key


async def rotate(store: Store, *, forget: bool = False) -> None:
    """Make a new secret: tokens given out from now on bear it. With *forget* those of earlier ones hold no more."""
    meta = meta_key(store.namespace)
    number, secret = (await store.mux.command("HGET", meta, "secret")).decode().split(":")
    if forget:
        flat = await store.mux.command("HKEYS", meta)
        old = [name for name in flat if name.startswith(b"secret:")]
        if old:
            await store.mux.command("HDEL", meta, *old)
    else:
        await store.mux.command("HSET", meta, f"secret:{number}", secret)
    store.secret = f"{(int(number) + 1) % 65536}:{secrets.token_hex(32)}"
    await store.mux.command("HSET", meta, "secret", store.secret)


def _bad() -> TokenRefused:
    return TokenRefused("that is not a token of this namespace", hint="it must be the whole text that was given out")
