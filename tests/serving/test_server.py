from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from robopolicy.errors import ConfigError
from robopolicy.serving.announcement import KEY
from robopolicy.serving.client import PolicyClient, ServerError
from robopolicy.serving.server import PolicyServer, ServerConfig, running
from robopolicy.serving.wire import pack, unpack
from tests.serving.models import TO, TP, Sums, request


@contextlib.contextmanager
def stranger(address: str, **settings: Any) -> Iterator[ClientConnection]:
    """A connection without our client, after the handshake."""
    with connect(address, compression=None, max_size=None, **settings) as connection:
        connection.recv()
        yield connection


def health(address: str, path: str = "/healthz") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("ws://"), timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def test_the_plain_form_is_openpis() -> None:
    with running(Sums()) as address, PolicyClient(address) as client:
        assert client.metadata.keys() == {KEY}
        one = client.infer(request())
        assert one["actions"].shape == (TP - TO + 1, 2)
        assert one["server_timing"].keys() == {"infer_ms", "wait_ms", "requests"}
        assert client.infer(request())["server_timing"]["prev_total_ms"] > 0
        whole = client.infer({**request(), KEY: {"seed": 4}})
        assert whole["actions"].shape == (TP, 2)
        assert whole[KEY]["version"] == "one"
        assert client.infer({**request(), KEY: {"seed": 4, "n": 3}})["actions"].shape == (3, TP, 2)
        assert client.infer({**request(batch=2), KEY: {}})["actions"].shape == (2, TP, 2)
        assert client.infer({**request(batch=2), KEY: {"n": 1}})["actions"].shape == (2, 1, TP, 2)


def test_requests_that_wait_together_are_one_batch_and_rows_stay_their_own() -> None:
    served = Sums(delay_s=0.2, max_chunks=12)
    options = [{"seed": i} if i % 2 else {"noise": np.full((TP, 2), i, np.float32)} for i in range(10)]
    asked = [{**request(i), KEY: option} for i, option in enumerate(options)]
    alone = Sums()
    expected = [alone.answer([alone.read(one)])[0] for one in asked]
    with running(served) as address, contextlib.ExitStack() as stack, ThreadPoolExecutor(11) as threads:
        clients = [stack.enter_context(PolicyClient(address)) for _ in range(11)]
        first = threads.submit(clients[10].infer, request())
        served.started.wait()
        answers = list(threads.map(lambda pair: pair[0].infer(pair[1]), zip(clients, asked, strict=False)))
        first.result()
    for found, wanted in zip(answers, expected, strict=True):
        assert isinstance(wanted, dict)
        np.testing.assert_array_equal(found["actions"], wanted["actions"])
    assert max(found["server_timing"]["requests"] for found in answers) > 1
    assert max(served.batches) > 1
    assert sum(served.batches) == 11


def test_batches_keep_the_limit() -> None:
    served = Sums(delay_s=0.1, max_chunks=4)
    with running(served) as address, contextlib.ExitStack() as stack, ThreadPoolExecutor(6) as threads:
        clients = [stack.enter_context(PolicyClient(address)) for _ in range(6)]
        list(threads.map(lambda client: client.infer({**request(batch=3), KEY: {}}), clients))
    assert served.batches == [3] * 6


def test_a_crash_is_told_to_who_caused_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    served = Sums(delay_s=0.2)
    with running(served) as address, ThreadPoolExecutor(3) as threads, contextlib.ExitStack() as stack:
        first, good, bad = (stack.enter_context(PolicyClient(address)) for _ in range(3))
        waiting = threads.submit(first.infer, request())
        served.started.wait()
        answers = threads.submit(good.infer, request())
        with pytest.raises(ServerError, match="RuntimeError: the model crashed"):
            bad.infer({**request(), "instruction": "crash"})
        assert answers.result()["actions"].shape == waiting.result()["actions"].shape
        with pytest.raises(ServerError, match="Error"):
            bad.infer({**request(), "instruction": "shape"})
        assert bad.infer(request())["actions"].shape == (TP - TO + 1, 2)
    assert "the model crashed" in caplog.text


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"state": None}, "state"),
        ({"state": [1.0, 2.0]}, r"array of float32 \[2, 3\], got list"),
        ({"state": np.zeros((2, 4), np.float32)}, r"\[2, 3\], or B of them; got \[2, 4\]"),
        ({"state": np.zeros(3, np.float32)}, r"got \[3\]"),
        ({"state": np.zeros((1, 1, 2, 3), np.float32)}, r"got \[1, 1, 2, 3\]"),
        ({"picture": np.zeros((2, 2, 2, 3), np.float32)}, "array of uint8"),
        ({"instruction": 3}, "a text"),
        ({"instruction": ["a", 3]}, "a text"),
        ({"instruction": "x" * 20_000}, "10000 characters"),
        ({"instruction": ["a", "b"]}, "batch size"),
        ({"stat": 0}, "Unknown observation 'stat'. Did you mean 'state'"),
        ({KEY: []}, "a map with"),
        ({KEY: {"sed": 3}}, r"unknown \['sed'\]"),
        ({KEY: {"n": 0}}, "between 1 and 32"),
        ({KEY: {"n": 33}}, "between 1 and 32"),
        ({KEY: {"n": True}}, "between 1 and 32"),
        ({KEY: {"seed": -1}}, "1 integers"),
        ({KEY: {"seed": [1, 2]}}, "1 integers"),
        ({KEY: {"seed": 0.5}}, "1 integers"),
        ({KEY: {"noise": np.zeros((TP, 3), np.float32)}}, r"floats \[5, 2\], got \[5, 3\]"),
        ({KEY: {"noise": 3}}, r"floats \[5, 2\], got int"),
        ({KEY: {"n": 2, "noise": np.zeros((TP, 2), np.float32)}}, r"floats \[2, 5, 2\]"),
    ],
)
def test_wrong_requests_are_explained_and_the_client_may_go_on(changes: dict[str, Any], reason: str) -> None:
    with running(Sums()) as address, PolicyClient(address) as client:
        with pytest.raises(ServerError, match=reason):
            client.infer({**request(), **changes})
        assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)


def test_after_messages_that_are_refused_whole_a_client_may_go_on() -> None:
    with running(Sums(), ServerConfig(port=0, max_bytes=100_000)) as address, PolicyClient(address) as client:
        with pytest.raises(ServerError, match="exceeds max_array_len"):
            client.infer({"state": [0.0] * 2000})
        assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)
        with pytest.raises(ServerError, match=r"hung up.*100000"):
            client.infer({"state": np.zeros(100_000)})
        assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)


def test_missing_observations_batches_without_the_key_and_other_things_are_refused() -> None:
    with running(Sums()) as address, PolicyClient(address) as client:
        with pytest.raises(ServerError, match=r"lacks \['picture', 'state'\]; given: \['instruction'\]"):
            client.infer({"instruction": "lift"})
        with pytest.raises(ServerError, match="need the key 'robopolicy'"):
            client.infer(request(batch=2))
        with pytest.raises(ServerError, match="33 observations"):
            client.infer({**request(batch=33), KEY: {}})
        with stranger(address) as other:
            other.send(pack([1, 2]))
            assert "is a map of observations, got list" in other.recv()


def test_inference_does_not_block_the_event_loop() -> None:
    served = Sums(delay_s=2.0)
    with running(served) as address, PolicyClient(address) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.infer, request())
        served.started.wait()
        assert health(address) == (200, b"OK\n")
        with PolicyClient(address) as other:
            assert other.said().version == "one"
        assert not waiting.done()
        waiting.result()


def _garbage(generator: random.Random) -> bytes | str:
    """Noise, and requests that were damaged."""
    kind = generator.randrange(4)
    if kind == 0:
        return generator.randbytes(generator.randrange(200))
    if kind == 1:
        return "text" * generator.randrange(1, 50)
    message = bytearray(pack({**request(generator.randrange(5)), KEY: {"n": 2, "seed": 1}}))
    if kind == 2:
        return bytes(message[: generator.randrange(len(message))])
    for _ in range(generator.randrange(1, 6)):
        message[generator.randrange(len(message))] = generator.randrange(256)
    return bytes(message)


def test_a_good_client_is_served_while_others_send_garbage() -> None:
    def pester(address: str, seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(150):
            with contextlib.suppress(ConnectionClosed), stranger(address) as connection:
                connection.send(_garbage(generator))
                connection.recv(timeout=30)

    with running(Sums()) as address, PolicyClient(address) as client, ThreadPoolExecutor(2) as threads:
        expected = client.infer({**request(), KEY: {"seed": 1}})["actions"]
        pests = [threads.submit(pester, address, seed) for seed in range(2)]
        served = 0
        while not all(pest.done() for pest in pests):
            np.testing.assert_array_equal(client.infer({**request(), KEY: {"seed": 1}})["actions"], expected)
            served += 1
        for pest in pests:
            pest.result()
        assert served > 10
        assert client.requests == served + 1


def test_oversized_half_sent_silent_and_deaf_clients() -> None:
    config = ServerConfig(port=0, max_bytes=100_000, idle_s=0.5)
    with running(Sums(), config) as address:
        host, port = address.removeprefix("ws://").split(":")
        with stranger(address) as big:
            big.send(b"x" * 100_001)
            with pytest.raises(ConnectionClosed) as closed:
                big.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        with socket.create_connection((host, int(port))) as mute, stranger(address) as silent:
            mute.sendall(b"GET / HTTP/1.1\r\nHost: half")
            half = stranger(address)
            connection = half.__enter__()
            connection.socket.sendall(b"\x82\xfe\xff\xff1234partofamessage")  # a frame that never ends
            with PolicyClient(address) as client:
                assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)
            with pytest.raises(ConnectionClosed) as closed:
                silent.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            assert "silent" in closed.value.rcvd.reason
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=30)


def test_replies_that_nobody_reads_hold_up_nobody() -> None:
    with running(Sums(max_chunks=1000)) as address, PolicyClient(address) as client:
        many = pack({**request(batch=20), KEY: {"n": 50}})
        with stranger(address) as deaf:
            with contextlib.suppress(TimeoutError, OSError):
                deaf.socket.settimeout(0.5)
                for _ in range(100):  # until the buffers are full
                    deaf.send(many)
            assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)
            deaf.socket.close()


def test_no_more_clients_than_allowed() -> None:
    with running(Sums(), ServerConfig(port=0, max_clients=1)) as address, PolicyClient(address):
        with pytest.raises(ServerError, match="1 clients are connected, which is all"):
            PolicyClient(address, patience_s=0.2)
        assert health(address) == (200, b"OK\n")


def test_the_token_is_needed_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Sums(), token="secret") as address:
        assert health(address) == (200, b"OK\n")
        with pytest.raises(ServerError, match=r"401.*ROBOPOLICY_TOKEN"):
            PolicyClient(address)
        with pytest.raises(ServerError, match="401"):
            PolicyClient(address, token="secret2")
        monkeypatch.setenv("ROBOPOLICY_TOKEN", "secret")
        with PolicyClient(address) as client:
            assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)


def test_other_computers_are_not_let_in_without_a_token_nor_browsers_at_all() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2", "robot.local"):
        with pytest.raises(ConfigError, match="ROBOPOLICY_TOKEN"):
            PolicyServer(Sums(), ServerConfig(host=host))
    PolicyServer(Sums(), ServerConfig(host="0.0.0.0"), token="secret")
    for host in ("localhost", "127.0.0.1", "::1"):
        PolicyServer(Sums(), ServerConfig(host=host))
    with running(Sums()) as address, pytest.raises(InvalidStatus, match="403"):
        connect(address, origin="http://evil.example").__enter__()  # type: ignore[arg-type]


def test_settings_that_cannot_work_and_a_port_in_use() -> None:
    for wrong in ({"port": -1}, {"max_clients": 0}, {"max_bytes": 0}, {"idle_s": 0.0}):
        with pytest.raises(ConfigError, match="A server needs"):
            ServerConfig(**wrong)  # type: ignore[arg-type]
    with running(Sums()) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            running(Sums(), ServerConfig(port=port)).__enter__()


def test_stopping_does_not_wait_for_the_model() -> None:
    served = Sums()
    served.held = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        with running(served) as address:
            client = PolicyClient(address, patience_s=0.1)
            waiting = threads.submit(client.infer, request())
            served.started.wait()
        with pytest.raises(ServerError, match="No policy server"):
            waiting.result()
        served.held.set()


def test_the_handshake_is_what_the_model_announces() -> None:
    with running(Sums()) as address, connect(address, compression=None) as connection:
        said = unpack(connection.recv())[KEY]
    assert said["accepts"] == ["batch", "n", "noise", "seed"]
    assert said["noise_shape"] == [TP, 2]
    assert (said["protocol"], said["version"], said["max_chunks"]) == (1, "one", 32)
    assert said["spec"]["observations"]["picture"]["kind"] == "image"
