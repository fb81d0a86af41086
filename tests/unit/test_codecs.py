"""Payload codecs: what is sealed comes back byte for byte, by whichever codecs are named in it, or not at all."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redurable.codec import NIL, Sealed, digest, encode, sealed_part, typed
from redurable.codecs import AesGcm, Codec, Directory, Offload, Vault, Zstd, load_codec, vault_of
from redurable.codecs.base import shown
from redurable.errors import CodecError, ConfigurationError, SerialisationError
from redurable.model import Envelope, ErrorInfo, Outcome, Status, StepDone, StepFailedEntry, decode_entry, encode_entry

pytestmark = pytest.mark.anyio
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
TEXT = "a plain secret "


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Memory:
    """A blob store."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def put(self, name: str, data: bytes) -> None:
        self.held[name] = data

    async def get(self, name: str) -> bytes:
        return self.held[name]


class Broken:
    """A codec that fails."""

    name = "broken"

    async def encode(self, data: bytes) -> bytes:
        raise OSError(f"cannot take {data!r}")

    async def decode(self, data: bytes) -> bytes:
        raise OSError(f"cannot give {data!r}")


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def chains() -> list[Sequence[Codec]]:
    return [
        [Zstd()],
        [AesGcm({"a": KEY})],
        [Zstd(above=0), AesGcm({"a": KEY})],
        [Zstd(), AesGcm({"a": KEY}), Offload(Memory(), above=100)],
        [Offload(Memory(), above=0)],
    ]


@given(st.recursive(st.none() | st.integers(-9, 9) | st.text() | st.binary(), lambda s: st.lists(s) | st.tuples(s)))
def test_what_is_sealed_comes_back(value: Any) -> None:
    async def there_and_back() -> None:
        for data in (packed(value), packed([value] * 200)):
            for chain in chains():
                vault = Vault(chain)
                sealed = await vault.seal(data)
                msgspec.msgpack.decode(sealed)  # it is MessagePack: it can be part of an entry
                assert await vault.open(sealed) == data

    asyncio.run(there_and_back())


async def test_a_value_names_the_codecs_that_sealed_it_and_needs_no_others() -> None:
    zstd, aes, blobs = Zstd(above=0), AesGcm({"a": KEY}), Offload(Memory(), above=10)
    data = packed(TEXT * 30)
    sealed = await Vault([zstd, aes, blobs]).seal(data)
    assert (sealed_part(sealed) or ())[0] == ["zstd", "aes-gcm", "offload"]
    assert await Vault([blobs, aes, zstd]).open(sealed) == data, "the order is that of the value"
    with pytest.raises(CodecError, match="sealed by 'zstd', which is not configured here") as missing:
        await Vault([blobs, aes]).open(sealed)
    assert missing.value.code == "CODEC_MISSING"
    assert await Vault([aes]).open(data) == data, "what was stored before there was a codec"
    small = packed("x")
    assert await Vault([Zstd(), blobs]).seal(small) == small, "nothing was applied"


async def test_encryption_leaves_nothing_plain_and_is_never_the_same_twice() -> None:
    vault = Vault([AesGcm({"2026-11": KEY})])
    sealed = {await vault.seal(packed(TEXT)) for _ in range(50)}
    assert len(sealed) == 50
    assert not any(TEXT.encode() in each for each in sealed)


class TestKeys:
    async def test_a_rotated_key_seals_and_the_old_one_still_opens(self) -> None:
        old = Vault([AesGcm({"one": KEY})])
        both = Vault([AesGcm({"two": OTHER, "one": KEY})])
        later = Vault([AesGcm({"two": OTHER})])
        before, after = await old.seal(packed(1)), await both.seal(packed(2))
        assert [await both.open(before), await both.open(after)] == [packed(1), packed(2)]
        assert await later.open(after) == packed(2)
        for vault, value in ((old, after), (later, before)):
            with pytest.raises(CodecError, match="is not known here") as missing:
                await vault.open(value)
            assert missing.value.code == "CODEC_KEY_MISSING"

    async def test_another_key_under_the_same_id_and_a_damaged_value(self) -> None:
        sealed = await Vault([AesGcm({"one": KEY})]).seal(packed(TEXT))
        with pytest.raises(CodecError, match="cannot be opened by key 'one'") as wrong:
            await Vault([AesGcm({"one": OTHER})]).open(sealed)
        assert wrong.value.code == "CODEC_FAILED"
        for at in range(12, len(sealed)):
            damaged = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            with pytest.raises(CodecError):
                await Vault([AesGcm({"one": KEY})]).open(damaged)

    async def test_a_function_is_asked_once_for_each_key_that_it_knows(self) -> None:
        asked: list[str] = []

        async def ask(key_id: str) -> bytes:
            asked.append(key_id)
            return {"one": KEY, "two": OTHER}[key_id]

        vault = Vault([AesGcm(ask, current="two")])
        values = [await vault.seal(packed(n)) for n in range(5)]
        values.append(await Vault([AesGcm({"one": KEY})]).seal(packed(5)))
        assert [await vault.open(value) for value in values] == [packed(n) for n in range(6)]
        assert asked == ["two", "one"]
        strange = await Vault([AesGcm({"three": KEY})]).seal(packed(1))
        for _ in range(2):
            with pytest.raises(CodecError, match="'three' is not known") as missing:
                await vault.open(strange)
            assert missing.value.code == "CODEC_KEY_MISSING"
        assert asked == ["two", "one", "three", "three"], "it may know it by now"

    async def test_keys_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = (base64.b64encode(key).decode() for key in (KEY, OTHER))
        monkeypatch.setenv("REDURABLE_KEYS", f" two={two}, one={one}")
        sealed = await Vault([AesGcm.from_env()]).seal(packed(1))
        assert await Vault([AesGcm({"two": OTHER})]).open(sealed) == packed(1)

    @pytest.mark.parametrize("text", ["", ",", "one", "one=", "=AAAA", "one=!!!", "one=AAAA", "one=AAAA,two"])
    def test_keys_of_the_environment_that_are_none(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("REDURABLE_KEYS", text)
        with pytest.raises(ConfigurationError) as refused:
            AesGcm.from_env()
        assert refused.value.code == "BAD_CODEC"
        assert "AAAA" not in str(refused.value)

    @pytest.mark.parametrize(
        ("keys", "current"),
        [({}, None), ({"a": b"short"}, None), ({"a": 5}, None), ({"a": KEY}, "b"), ({"": KEY}, None),
         ({"x" * 256: KEY}, None), (lambda key_id: KEY, None)],
    )  # fmt: skip
    def test_keys_that_cannot_be(self, keys: Any, current: Any) -> None:
        with pytest.raises(ConfigurationError) as refused:
            AesGcm(keys, current=current)
        assert refused.value.code == "BAD_CODEC"


class TestOffload:
    async def test_large_values_are_in_the_directory_alone(self, tmp_path: Path) -> None:
        vault = Vault([Offload(Directory(tmp_path), above=1000)])
        data = packed(TEXT * 100)
        sealed = await vault.seal(data)
        assert len(sealed) < 80
        assert await vault.seal(data) == sealed, "the same again changes nothing"
        (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert file.read_bytes() == data
        assert await vault.open(sealed) == data

    async def test_one_that_is_gone_or_damaged(self, tmp_path: Path) -> None:
        vault = Vault([Offload(Directory(tmp_path), above=1)])
        sealed = await vault.seal(packed(TEXT))
        (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
        file.write_bytes(b"else")
        with pytest.raises(CodecError, match="was damaged"):
            await vault.open(sealed)
        file.unlink()
        with pytest.raises(CodecError, match="is gone from its store"):
            await vault.open(sealed)

    async def test_many_that_write_the_same_at_once(self, tmp_path: Path) -> None:
        vault = Vault([Offload(Directory(tmp_path), above=1)])
        sealed = await asyncio.gather(*(vault.seal(packed(TEXT)) for _ in range(20)))
        assert len(set(sealed)) == 1
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1

    def test_what_is_no_store(self) -> None:
        with pytest.raises(ConfigurationError, match="no BlobStore"):
            Offload("/tmp")  # type: ignore[arg-type]  # wrong on purpose


async def test_a_compressed_value_that_claims_to_be_huge() -> None:
    bomb = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little")  # the header of a frame
    with pytest.raises(CodecError, match="claims to hold"):
        await Zstd().decode(bomb)


async def test_a_codec_that_fails_is_told_without_the_value() -> None:
    with pytest.raises(CodecError, match="'broken' could not encode a value: OSError") as refused:
        await Vault([Broken()]).seal(packed(TEXT))
    assert TEXT not in str(refused.value)
    sealed = msgspec.msgpack.encode(msgspec.msgpack.Ext(82, b"\x01\x06broken" + TEXT.encode()))
    with pytest.raises(CodecError, match="could not decode") as refused:
        await Vault([Broken()]).open(sealed)
    assert TEXT not in str(refused.value)


class TestStructs:
    async def test_values_and_errors_are_sealed_and_the_rest_is_readable(self) -> None:
        vault = Vault([Zstd(), AesGcm({"a": KEY})])
        error = ErrorInfo("app.Oops", TEXT, "CODE", ("builtins.Exception",), {"why": TEXT}, TEXT)
        structs: list[Any] = [
            Envelope("t", msgspec.Raw(packed(TEXT)), {"label": "x"}, "key"),
            Outcome(Status.COMPLETED, msgspec.Raw(packed(TEXT))),
            Outcome(Status.FAILED, msgspec.Raw(NIL), error),
            StepDone("", "charge", 1, 5, b"code", msgspec.Raw(packed([TEXT])), [("", "x", 1)]),
            StepFailedEntry("a/b", "charge", "id", 5, b"code", error, 3),
        ]
        for struct in structs:
            sealed = await vault.seal_struct(struct)
            data = encode_entry(sealed)
            assert TEXT.encode() not in data
            read = msgspec.msgpack.decode(data, type=type(struct))
            assert encode_entry(await vault.open_struct(read)) == encode_entry(struct)
        failed: Any = decode_entry(encode_entry(await vault.seal_struct(structs[-1])))
        assert (failed.name, failed.error.type, failed.error.code) == ("charge", "app.Oops", "CODE")
        assert failed.error.bases == ("builtins.Exception",)
        assert (failed.error.message, failed.error.traceback) == ("(sealed)", "")

    async def test_people_who_look_see_what_can_be_opened(self) -> None:
        sealed = await Vault([AesGcm({"a": KEY})]).seal_struct(Outcome(Status.COMPLETED, msgspec.Raw(packed(1))))
        assert (await shown(None, sealed)) is sealed
        assert (await shown(Vault([AesGcm({"b": KEY})]), sealed)) is sealed
        assert bytes((await shown(Vault([AesGcm({"a": KEY})]), sealed)).result) == packed(1)


class TestWithout:
    """What is sealed never passes for a value where no codec is configured."""

    @pytest.mark.parametrize("kind", [Any, object, int, dict, list[str], bytes, str | None])
    async def test_no_type_takes_it(self, kind: Any) -> None:
        sealed = await Vault([AesGcm({"a": KEY})]).seal(packed([TEXT]))
        with pytest.raises(CodecError, match=r"a value is sealed \(aes-gcm\)") as refused:
            typed(kind).decode(sealed, "the payload")
        assert refused.value.code == "CODEC_MISSING"
        nested = b"\x91" + sealed
        with pytest.raises((CodecError, SerialisationError)):
            typed(kind).decode(nested, "the payload")

    def test_extensions_of_users_are_theirs(self) -> None:
        value = msgspec.msgpack.Ext(5, b"mine")
        assert typed(Any).decode(packed(value), "x") == value
        assert sealed_part(packed(value)) is None
        assert sealed_part(b"") is None


async def test_a_sealed_payload_compares_as_what_it_was() -> None:
    vault = Vault([AesGcm({"a": KEY})])
    one, two = await vault.wrap({"b": 1, "a": TEXT}, 1000), await vault.wrap({"a": TEXT, "b": 1}, 1000)
    assert one.data != two.data
    assert digest(["t", one]) == digest(["t", two]) == digest(["t", {"a": TEXT, "b": 1}])
    assert encode(one, "x") == encode({"b": 1, "a": TEXT}, "x")
    assert isinstance(one, Sealed)
    assert await vault.wrap(None, 10) is None


class TestLoading:
    def test_nothing_is_configured(self) -> None:
        assert vault_of(None) is None
        assert vault_of([]) is None
        assert vault_of("") is None

    def test_a_codec_of_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_codecs.py").write_text(
            "from redurable.codecs import Zstd\none = Zstd()\nmany = [Zstd()]\ndef make():\n    return [Zstd()]\n"
            "class Part:\n    codec = one\nnumber = 5\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        for name in ("one", "many", "make", "Part.codec"):
            assert isinstance(vault_of(f"my_codecs:{name}"), Vault)
        monkeypatch.setenv("REDURABLE_CODEC", "my_codecs:one")
        assert isinstance(vault_of(None), Vault)
        for name in ("number", "Part", "gone"):
            with pytest.raises(ConfigurationError) as refused:
                vault_of(f"my_codecs:{name}")
            assert refused.value.code == "BAD_CODEC"

    @pytest.mark.parametrize("target", ["a", ":a", "a:", "no_such_module_here:a", "os:path.nothing"])
    def test_what_names_none(self, target: str) -> None:
        with pytest.raises(ConfigurationError) as refused:
            load_codec(target)
        assert refused.value.code == "BAD_CODEC"

    def test_names_are_short_and_unlike(self) -> None:
        for codecs in ([Zstd(), Zstd()], [Zstd(name="")], [Zstd(name="x" * 32)], [Zstd(name="é")]):
            with pytest.raises(ConfigurationError, match="names of their own"):
                vault_of(codecs)
        assert vault_of([Zstd(), Zstd(name="zstd-2")])

    def test_an_extra_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(ConfigurationError, match="needs the package zstandard") as refused:
            Zstd()
        assert "redurable[zstd]" in refused.value.hint


def test_nonces_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda n: asked.append(n) or real(n))  # type: ignore[func-returns-value]  # a spy
    asyncio.run(AesGcm({"a": KEY}).encode(b"x"))
    assert asked == [12]
