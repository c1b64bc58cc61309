from __future__ import annotations

import copy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.serving.announcement import KEY, Announcement
from robopolicy.serving.client import PolicyClient, ServerError, VersionChanged
from robopolicy.serving.server import ServerConfig, running
from robopolicy.serving.wire import ProtocolError
from tests.serving.models import SPEC, TO, TP, Sums, openpi_server, request

ROOT = Path(__file__).parents[2]


def constant(observation: dict[str, Any]) -> dict[str, Any]:
    """A model as behind openpi's server: no time axis in, `[H, Da]` out."""
    assert KEY not in observation
    assert observation["state"].shape == (3,)
    return {
        "actions": np.full((4, 2), observation["state"].sum(), np.float32),
        "policy_timing": {"infer_ms": 2.0},
    }


def histories(batch: int) -> dict[str, Any]:
    return {"state": np.arange(3 * batch, dtype=np.float32).reshape(batch, 1, 3), "prompt": ["lift"] * batch}


def test_an_unmodified_server_is_asked_once_for_every_chunk() -> None:
    with openpi_server(constant, {"robot": "arm"}) as address, PolicyClient(address) as client:
        assert client.metadata == {"robot": "arm"}
        reply = client.sample(histories(2), n=3)
        assert (reply.requests, client.requests) == (6, 6)
        assert reply.actions.shape == (2, 3, 4, 2)
        assert (reply.actions[0] == 3).all()
        assert (reply.actions[1] == 12).all()
        for options in ({"noise": np.zeros((2, 3, 4, 2), np.float32)}, {"seeds": [1, 2]}):
            with pytest.raises(MissingCapability, match=r'add \{"robopolicy": \{"protocol": 1, "accepts"'):
                client.sample(histories(2), n=3, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="the present observation alone, got a history of 2"):
            client.sample({"state": np.zeros((1, 2, 3), np.float32)})
        with pytest.raises(ServerError, match="Traceback: KeyError"):
            client.infer({})


def test_a_server_that_takes_noise_gets_it_for_every_chunk() -> None:
    def infer(observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": observation[KEY]["noise"] + observation["state"][0]}

    said = {KEY: {"protocol": 1, "accepts": ["noise"], "noise_shape": [4, 2]}}
    noise = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    with openpi_server(infer, said) as address, PolicyClient(address) as client:
        reply = client.sample(histories(2), n=3, noise=noise)
        np.testing.assert_array_equal(
            reply.actions, noise + np.array([0, 3], np.float32)[:, None, None, None]
        )
        assert reply.requests == 6
        with pytest.raises(MissingCapability, match="does not accept 'seed'"):
            client.sample(histories(2), seeds=[1, 2])


def test_large_batches_are_asked_for_in_parts_and_seeds_belong_to_rows() -> None:
    batch = request(batch=7)
    with running(Sums(max_chunks=6)) as address, PolicyClient(address) as client:
        reply = client.sample(batch, n=2, seeds=range(7))
        assert (reply.requests, reply.actions.shape) == (3, (7, 2, TP, 2))
        for row in range(7):
            one = client.sample({key: value[row : row + 1] for key, value in batch.items()}, n=2, seeds=[row])
            np.testing.assert_array_equal(one.actions[0], reply.actions[row])
        with pytest.raises(ServerError, match="between 1 and 6"):
            client.sample(batch, n=7)


def test_a_server_that_comes_back_is_found_again_unless_its_weights_changed() -> None:
    with running(Sums()) as address:
        client = PolicyClient(address)
        expected = client.sample(request(batch=1), seeds=[3]).actions
        config = ServerConfig(port=int(address.rpartition(":")[2]))
    restarted = running(Sums(), config)
    timer = threading.Timer(0.3, restarted.__enter__)
    timer.start()
    np.testing.assert_array_equal(client.sample(request(batch=1), seeds=[3]).actions, expected)
    timer.join()
    restarted.__exit__(None, None, None)
    with (
        running(Sums(version="two"), config),
        pytest.raises(VersionChanged, match=r"version two, before one"),
    ):
        client.sample(request(batch=1))


def test_other_weights_in_a_reply_are_an_error_naming_both() -> None:
    replies = iter(["one", "two"])

    def infer(observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.zeros((4, 2), np.float32), KEY: {"version": next(replies)}}

    said = {KEY: {"protocol": 1, "version": "one"}}
    with openpi_server(infer, said) as address, PolicyClient(address) as client:
        client.infer({})
        with pytest.raises(VersionChanged, match=r"version two, before one"):
            client.infer({})


def test_no_server_a_silent_server_and_other_servers_are_told_apart() -> None:
    with openpi_server(constant) as address:
        pass
    with pytest.raises(ServerError, match=r"No policy server at ws://.*refused.*attempts in 0.3 s"):
        PolicyClient(address, patience_s=0.3)
    with pytest.raises(ServerError, match="is not a policy server"):
        PolicyClient("http://127.0.0.1:1", patience_s=0.1)
    served = Sums()
    served.held = threading.Event()
    with running(served) as address:
        with pytest.raises(ServerError, match=r"has not answered within 0.2 s"):
            PolicyClient(address, timeout_s=0.2).infer(request())
        served.held.set()


@pytest.mark.parametrize(
    "said, reason",
    [
        ([], "map under"),
        ({"protocol": 2}, "speaks protocol 2"),
        ({"accepts": ["chain"]}, "unknown fields"),
        ({"accepts": ["noise"]}, "no noise_shape"),
        ({"accepts": 3}, "cannot be understood"),
        ({"spec": {}}, "cannot be understood"),
    ],
)
def test_handshakes_that_cannot_be_understood(said: Any, reason: str) -> None:
    with openpi_server(constant, {KEY: said}) as address, pytest.raises(ProtocolError, match=reason):
        PolicyClient(address, patience_s=0.1)


def test_replies_that_are_none() -> None:
    replies: list[Any] = [{"action": 1}, {"actions": np.zeros(2)}]
    with openpi_server(lambda observation: replies.pop()) as address, PolicyClient(address) as client:
        for _ in range(2):
            with pytest.raises(ProtocolError, match="without actions of the shape"):
                client.sample(histories(1))


def test_announcements_come_back_and_later_keys_are_passed_over() -> None:
    said = Sums().announcement
    metadata = {KEY: {**said.to_dict(), "later": 1}, "robot": "arm"}
    assert Announcement.from_metadata(metadata) == said
    assert said.spec == SPEC
    assert Announcement.from_metadata({}) == Announcement()


def test_a_reply_after_an_interrupt_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ClientConnection, timeout: float) -> None:
        raise KeyboardInterrupt

    with running(Sums()) as address, PolicyClient(address) as client:
        with monkeypatch.context() as patch:
            patch.setattr(ClientConnection, "recv", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.infer({**request(1), KEY: {"seed": 1}})
        expected = PolicyClient(address).infer({**request(2), KEY: {"seed": 2}})["actions"]
        np.testing.assert_array_equal(client.infer({**request(2), KEY: {"seed": 2}})["actions"], expected)


def test_a_copy_connects_for_itself() -> None:
    with running(Sums()) as address, PolicyClient(address) as client, copy.deepcopy(client) as other:
        assert other.sample(request(batch=1)).actions.shape == (1, 1, TP, 2)
        assert client.sample(request(batch=1)).actions.shape == (1, 1, TP, 2)


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager")
def test_openpis_own_client_unchanged_talks_to_our_server() -> None:
    theirs = pytest.importorskip(
        "openpi_client.websocket_client_policy",
        reason="compares with openpi's own client: pip install --no-deps openpi-client",
        exc_type=ImportError,
    )
    with running(Sums(), token="secret") as address:
        host, port = address.removeprefix("ws://").split(":")
        client = theirs.WebsocketClientPolicy(host, int(port), api_key="secret")
        assert client.get_server_metadata()[KEY]["version"] == "one"
        for _ in range(2):
            reply = client.infer(request())
            assert reply["actions"].shape == (TP - TO + 1, 2)
            assert reply["actions"].dtype == np.float32
            assert reply["server_timing"]["infer_ms"] >= 0
        with pytest.raises(RuntimeError, match=r"lacks \['picture', 'state'\]"):
            client.infer({"instruction": "lift"})
        assert client.infer(request())["actions"].shape == (TP - TO + 1, 2)


def test_the_client_needs_numpy_msgpack_and_websockets_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import robopolicy.serving.client\n"
        "new = {n.partition('.')[0]: m for n, m in sys.modules.items() if n not in before}\n"
        "found = {n for n, m in new.items() if getattr(m, '__file__', None)} - sys.stdlib_module_names\n"
        "sys.exit(', '.join(found - {'numpy', 'msgpack', 'websockets', 'robopolicy'}) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
