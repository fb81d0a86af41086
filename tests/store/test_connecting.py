"""Ways to a server, and what is said when one does not lead there: passwords, TLS, sockets, namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from redurable.config import parse_url
from redurable.errors import ConfigurationError, NotFound, RedurableError, StoreUnavailable
from redurable.ids import new_id
from redurable.store.keys import meta_key
from redurable.store.link import Link
from redurable.store.server import PrivateServer
from redurable.store.store import FORMAT, Store
from redurable.store.topology import Topology, translated
from tests.store.conftest import plain
from tests.store.world import BODY, QUEUE, World
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@contextlib.asynccontextmanager
async def opened(url: str, namespace: str = "t", **options: Any) -> AsyncIterator[Store]:
    """Give a started store; a failure to start leaves nothing open."""
    store = Store(parse_url(url), namespace, **options)
    try:
        await asyncio.wait_for(store.start(), 30)
        yield store
    finally:
        await asyncio.wait_for(store.close(), 30)


async def refusal(url: str, **options: Any) -> RedurableError:
    """Return the error that starting on *url* ends with."""
    with pytest.raises(RedurableError) as caught:
        async with opened(url, **options):
            pass
    return caught.value


async def works(store: Store) -> bool:
    """Submit an intent and see it."""
    intent = new_id(0)
    assert await store.submit(intent, BODY, QUEUE, "q:normal") == b"OK"
    return await store.mux.command("HGET", store.keys[0].head(intent), "status") == b"SUBMITTED"


@pytest.fixture(scope="module")
def locked(binary: str) -> Iterator[PrivateServer]:
    with PrivateServer(port=0, appendfsync="no", binary=binary, args=("--requirepass", "p@ss/word")) as server:
        with plain(server, password="p@ss/word") as client:
            client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", "idle", "on", ">secret", "~*", "-@all")
        yield server


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine to make a certificate with")
    place = tmp_path_factory.mktemp("tls")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(words, cwd=place, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def sealed(binary: str, papers: Path) -> Iterator[int]:
    """Give the TLS port of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = ["--tls-port", str(port), "--tls-cert-file", str(papers / "cert.pem"), "--tls-auth-clients", "no"]
    args += ["--tls-key-file", str(papers / "key.pem"), "--tls-ca-cert-file", str(papers / "cert.pem")]
    try:
        server = PrivateServer(appendfsync="no", binary=binary, args=args).start()
    except ConfigurationError:
        pytest.skip("this server was built without TLS")
    yield port
    server.remove()


class TestPasswords:
    @pytest.mark.parametrize("login", [":p%40ss%2Fword@", "ann:secret@", "default:p%40ss%2Fword@"])
    async def test_the_right_one_lets_in(self, locked: PrivateServer, login: str) -> None:
        async with opened(f"redis://{login}127.0.0.1:{locked.port}/0") as store:
            assert await works(store)

    @pytest.mark.parametrize("login", ["", ":wrong@", "ann:wrong@", "nobody:secret@", "ann@"])
    async def test_a_wrong_one_says_so_and_not_what_it_was(self, locked: PrivateServer, login: str) -> None:
        error = await refusal(f"redis://{login}127.0.0.1:{locked.port}/0")
        assert (type(error), error.code) == (StoreUnavailable, "AUTH_FAILED")
        assert "wrong" not in str(error)
        assert "secret" not in str(error)
        assert str(locked.port) in error.message
        assert "redis://" in error.hint

    async def test_over_a_socket_too(self, locked: PrivateServer) -> None:
        assert (await refusal(locked.unix_url)).code == "AUTH_FAILED"
        async with opened(f"unix://ann:secret@{locked.socket}") as store:
            assert await works(store)

    async def test_a_user_who_may_do_nothing_is_told(self, locked: PrivateServer) -> None:
        error = await refusal(f"redis://idle:secret@127.0.0.1:{locked.port}/0", patience=1)
        assert error.code in ("AUTH_FAILED", "STORE_ERROR")
        assert "permission" in str(error)

    async def test_a_user_without_channels_is_told_before_anything_is_written(self, locked: PrivateServer) -> None:
        with plain(locked, password="p@ss/word") as client:
            client.execute_command("ACL", "SETUSER", "mute", "on", ">secret", "~*", "resetchannels", "+@all")
        error = await refusal(f"redis://mute:secret@127.0.0.1:{locked.port}/0")
        assert error.code == "AUTH_FAILED"
        assert "channel" in error.message
        assert "&rd:*" in error.hint

    async def test_the_rights_that_the_hint_names_are_enough(self, locked: PrivateServer) -> None:
        with plain(locked, password="p@ss/word") as client:
            words = ["ACL", "SETUSER", "just", "on", ">secret", "~rd:*", "&rd:*", "+@all", "-@admin"]
            client.execute_command(*words)
            client.flushall()
        async with opened(f"redis://just:secret@127.0.0.1:{locked.port}/0", "rd") as store:
            world = World(store)
            await world.bring("IN_PROGRESS", reply="c1")
            await store.watch(world.id)
            assert await world.call("settle", channels="rd:r:") == "OK"
            assert await world.keeper.dismiss("w1") is True

    async def test_a_thread_of_its_own_gets_in_the_same_way(self, locked: PrivateServer) -> None:
        for url in (f"redis://ann:secret@127.0.0.1:{locked.port}/0", f"unix://ann:secret@{locked.socket}"):
            with Topology(parse_url(url)).blocking_client(2.0) as client:
                assert client.ping() is True

    def test_a_foreign_error_is_translated_once(self) -> None:
        address = parse_url("redis://host:1/0")
        ours = translated(redis.AuthenticationError("WRONGPASS"), address)
        assert isinstance(ours, StoreUnavailable)
        assert translated(ours, address) is ours
        alien = ValueError("not of the network")
        assert translated(alien, address) is alien


class TestTLS:
    async def test_a_trusted_certificate_lets_in(self, sealed: int, papers: Path) -> None:
        url = f"rediss://localhost:{sealed}/0?ssl_ca_certs={papers}/cert.pem"
        async with opened(url) as store:
            assert await works(store)
            big = b"x" * 3_000_000  # many records, many reads
            await store.mux.command("SET", "big", big)
            assert await asyncio.wait_for(store.mux.command("GET", "big"), 30) == big
        with Topology(parse_url(url)).blocking_client(2.0) as client:
            assert client.ping() is True

    async def test_a_cut_line_is_made_again(self, sealed: int, papers: Path) -> None:
        async with (
            Proxy(sealed) as proxy,
            opened(f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={papers}/cert.pem") as store,
        ):
            for _ in range(3):
                proxy.cut()
                assert await asyncio.wait_for(works(store), 30)
            assert store.mux.connects >= 3

    async def test_an_unknown_certificate_is_refused(self, sealed: int) -> None:
        error = await refusal(f"rediss://localhost:{sealed}/0")
        assert error.code == "STORE_UNAVAILABLE"
        assert "certificate" in error.message.lower()

    async def test_unless_it_need_not_be_known(self, sealed: int) -> None:
        async with opened(f"rediss://127.0.0.1:{sealed}/0?ssl_cert_reqs=none&ssl_check_hostname=false") as store:
            assert await works(store)

    async def test_tls_to_a_plain_server_and_plain_to_a_tls_server_end(
        self, sealed: int, real: PrivateServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("redurable.store.topology.CONNECT_TIMEOUT", 0.5)
        for url in (f"rediss://127.0.0.1:{real.port}/0", f"redis://127.0.0.1:{sealed}/0"):
            assert (await refusal(url)).code == "STORE_UNAVAILABLE"


class TestUnreachable:
    async def test_nobody_there(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        error = await refusal(f"redis://:pw@127.0.0.1:{port}/0")
        assert error.code == "STORE_UNAVAILABLE"
        assert f"127.0.0.1:{port}" in error.message
        assert "pw" not in str(error)
        assert "redurable dev" in error.hint

    async def test_no_such_socket(self, tmp_path: Path) -> None:
        assert (await refusal(f"unix://{tmp_path}/none")).code == "STORE_UNAVAILABLE"

    async def test_no_such_host(self) -> None:
        assert (await refusal("redis://no-such-host.invalid:6379/0")).code == "STORE_UNAVAILABLE"

    async def test_no_such_database(self, real: PrivateServer) -> None:
        assert (await refusal(f"redis://127.0.0.1:{real.port}/999")).code == "STORE_UNAVAILABLE"

    async def test_somebody_who_does_not_speak_redis(self) -> None:
        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        async with server:
            error = await refusal(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
            assert error.code == "STORE_UNAVAILABLE"

    async def test_somebody_who_hangs_up(self) -> None:
        async with Proxy(1) as proxy:
            proxy.accepting = False
            assert (await refusal(proxy.url)).code == "STORE_UNAVAILABLE"

    async def test_kinds_that_are_not_served_yet_are_named(self) -> None:
        for url in ("redis+sentinel://h1,h2/main/0", "redis+cluster://h1,h2"):
            with pytest.raises(ConfigurationError) as caught:
                Topology(parse_url(url))
            assert caught.value.code == "BAD_URL"

    async def test_a_line_that_ends_as_it_opens_is_noticed(self, real: PrivateServer) -> None:
        topology = Topology(parse_url(real.url))
        connection = topology.connection()
        connect = connection.connect

        async def connect_and_end() -> None:
            await connect()
            with plain(real) as client:
                for other in client.client_list():
                    if other["name"] == topology.name:
                        client.client_kill_filter(_id=other["id"])
            await asyncio.sleep(0.05)

        connection.connect = connect_and_end
        topology.connection = lambda: connection  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await Link.open(topology, lambda _: None, lambda _: None)


class TestSockets:
    async def test_a_unix_socket_leads_there(self, real: PrivateServer, space: str) -> None:
        async with opened(real.unix_url, space) as store:
            assert await works(store)
        with Topology(parse_url(real.unix_url)).blocking_client(2.0) as client:
            assert client.ping() is True

    async def test_databases_are_worlds_apart(self, real: PrivateServer, space: str) -> None:
        async with opened(real.unix_url + "?db=3", space) as three, opened(real.unix_url, space) as zero:
            await works(three)
            assert await zero.mux.command("EXISTS", zero.keys[0].streams) == 0
            await three.mux.command("FLUSHDB")

    async def test_connections_bear_a_name_of_ours(self, real: PrivateServer, space: str) -> None:
        async with opened(real.unix_url, space) as store:
            with plain(real) as client:
                names = {other["name"] for other in client.client_list()}
            assert store.topology.name in names
            assert store.topology.name.startswith("redurable-")

    async def test_connecting_leaves_no_errors_in_the_servers_counters(self, binary: str) -> None:
        with PrivateServer(port=0, appendfsync="no", binary=binary) as own:
            async with opened(own.url) as store, opened(own.unix_url):
                assert await works(store)
            with Topology(parse_url(own.unix_url)).blocking_client(2.0) as client:
                assert client.info("errorstats") == {}


class TestNamespaces:
    async def test_a_new_one_is_made_with_its_partitions(self, real: PrivateServer, space: str) -> None:
        async with opened(real.url, space, partitions=4) as store:
            assert [keys.partition for keys in store.keys] == [0, 1, 2, 3]
            intent = new_id(3)
            assert await store.submit(intent, BODY, QUEUE, "q:normal") == b"OK"
            assert await store.mux.command("EXISTS", f"{space}:{{3}}:i:{intent}") == 1
            with pytest.raises(NotFound):
                store.keys_of(new_id(4))

    async def test_one_that_exists_keeps_its_partitions(self, real: PrivateServer, space: str) -> None:
        async with opened(real.url, space, partitions=2), opened(real.url, space, partitions=16) as second:
            assert len(second.keys) == 2

    async def test_many_makers_at_once_agree(self, real: PrivateServer, space: str) -> None:
        stores = [Store(parse_url(real.url), space, partitions=n) for n in (1, 2, 3, 4)]
        await asyncio.wait_for(asyncio.gather(*(store.start() for store in stores)), 30)
        assert len({len(store.keys) for store in stores}) == 1
        for store in stores:
            await store.close()

    async def test_one_that_is_too_new_is_left_alone(self, real: PrivateServer, space: str) -> None:
        with plain(real) as client:
            client.hset(meta_key(space), mapping={"format": FORMAT + 1, "partitions": 1})
            before = client.hgetall(meta_key(space))
            error = await refusal(real.url, namespace=space)
            assert (type(error), error.code) == (ConfigurationError, "NAMESPACE_TOO_NEW")
            assert f"format {FORMAT + 1}" in error.message
            assert client.hgetall(meta_key(space)) == before

    async def test_one_that_was_half_made_is_completed(self, real: PrivateServer, space: str) -> None:
        with plain(real) as client:
            client.hset(meta_key(space), "partitions", 2)
        async with opened(real.url, space) as store:
            assert len(store.keys) == 2

    @pytest.mark.parametrize("name", ["", "a b", "a{b}", "a*", "x" * 65])
    async def test_a_name_that_no_key_can_begin_with_is_refused(self, real: PrivateServer, name: str) -> None:
        with pytest.raises(ConfigurationError):
            Store(parse_url(real.url), name)

    @pytest.mark.parametrize("queue", ["", "a:b", "a b", "a/b", "{x}", "x" * 129])
    async def test_a_queue_that_no_key_can_hold_is_refused(self, world: World, queue: str) -> None:
        with pytest.raises(ConfigurationError):
            world.store.stream_of(0, queue, "q:normal")


async def test_an_address_may_be_made_by_hand(real: PrivateServer, space: str) -> None:
    store = Store(replace(parse_url(real.url), host="localhost"), space)
    await store.start()
    assert await works(store)
    await store.close()
