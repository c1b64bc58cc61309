"""The page that steers by hand: its session, its manners, and a person's hand in a real browser."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.env import make_env
from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy
from robopolicy.steering.web import HOST, Session, WebConfig, serve
from robopolicy.task import Task
from tests.steering.toys import strolling

pytestmark = pytest.mark.sim
TASK = Task(
    name="avoidance_absolute",
    env={"name": "avoidance", "controller": "absolute"},
    horizon=60,
    success_hold=0,
)
CONFIG = WebConfig(checkpoint="none", plans=5, obstacles="obstacles", radius=0.022, lines=(0.0, 0.8))
UP = [[0.0, 0.0], [-0.25, 0.2], [-0.25, 0.9]]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def policy(task: Task = TASK) -> Policy:
    env = make_env(task)
    env.close()
    return strolling(env.robot_spec, deviation=0.05)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(policy(), CONFIG, task=TASK)
    yield made
    made.close()


@pytest.fixture(scope="module")
def port(session: Session) -> Iterator[int]:
    server = serve(session, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(port: int, verb: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    sent = body if isinstance(body, str) else json.dumps(body)
    connection.request("POST", verb, sent, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_plans_bend_to_the_sketch_and_the_first_is_executed(session: Session) -> None:
    free = session.reset(0)
    assert np.shape(free["plans"]) == (5, 15, 2)
    assert free["error"] is None
    wish = {"strategy": "guided", "settings": {"strength": 3.0}, "sketch": UP}
    bent = session.plan(wish)
    assert np.mean(bent["plans"], (0, 1))[0] < np.mean(free["plans"], (0, 1))[0] - 0.02
    after = session.step(wish)
    assert after["time"] == 8
    np.testing.assert_allclose(after["trail"][-1], bent["plans"][0][7], atol=0.03)
    assert session.plan(wish)["plans"] == after["plans"]


def test_an_episode_ends_and_another_begins(session: Session) -> None:
    session.reset(1)
    for _ in range(8):
        state = session.step({})
    assert state["over"] in ("reached", "collided", "out of time")
    assert session.step({})["time"] == state["time"]
    assert session.reset(2) == session.reset(2)
    assert session.reset(2)["over"] == ""


def test_wishes_that_make_no_sense_are_refused_in_words(port: int) -> None:
    for wish, message in (
        ({"strategy": "composition", "point": [0, 0]}, "strategy 'composition'"),
        ({"dream": 1}, "'dream'"),
        ({"sketch": [[0, 0]]}, "two different points"),
        ({"point": [0, 0], "settings": {"strenght": 1}}, "strenght"),
        ({"point": "here"}, ""),
        ([], "object"),
        ("{", ""),
    ):
        status, answer = ask(port, "/plan", wish)
        assert status == 400
        assert message in answer["error"]
    assert ask(port, "/reset", {"episode": -1})[0] == 400
    assert ask(port, "/dance", {})[0] == 404


def test_other_hosts_and_other_sites_get_no_answer(port: int) -> None:
    assert ask(port, "/plan", {}, Host="evil.example")[0] == 403
    assert ask(port, "/plan", {}, **{"Content-Type": "text/plain"})[0] == 415
    assert ask(port, "/plan", {}, **{"Content-Length": "1000001"})[0] == 413
    page = http.client.HTTPConnection(HOST, port, timeout=60)
    page.request("GET", "/")
    text = page.getresponse().read().decode()
    assert not re.findall(r"(?:https?:)?//[a-z]", text)


def test_a_policy_that_is_not_on_a_plane_is_refused() -> None:
    delta = Task(name="avoidance", env={"name": "avoidance"}, horizon=60)
    with pytest.raises(ConfigError, match="do not say where"):
        Session(policy(delta), CONFIG, task=delta)
    with pytest.raises(ConfigError, match="no task"):
        Session(policy(), CONFIG)


class Tab:
    """A browser's page, through the DevTools protocol."""

    def __init__(self, url: str, profile: Path) -> None:
        from websockets.sync.client import connect

        assert BROWSER is not None
        self.browser = subprocess.Popen(
            [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             "--no-first-run", f"--user-data-dir={profile}", "--window-size=1000,820", url],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.browser.stderr is not None
        found = None
        for line in self.browser.stderr:
            if found := re.search(r"ws://[^/]+:(\d+)/", line):
                break
        assert found is not None, "the browser did not start"
        threading.Thread(target=self.browser.stderr.read, daemon=True).start()
        page = None
        for _ in range(200):
            listing = http.client.HTTPConnection(HOST, int(found[1]), timeout=30)
            listing.request("GET", "/json")
            pages = [p for p in json.loads(listing.getresponse().read()) if p["type"] == "page"]
            if pages:
                page = pages[0]
                break
            time.sleep(0.05)
        assert page is not None
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None))
        self.number = 0

    def send(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.number:
                return answer["result"]

    def value(self, expression: str) -> Any:
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for something to be so; a minute at most."""
        for _ in range(600):
            if self.value(expression):
                return
            time.sleep(0.1)
        raise AssertionError(f"not so: {expression}; the page says {self.value('document.body.innerText')}")

    def drag(self, places: list[list[float]]) -> None:
        """Press the mouse at the first place (in the robot's units), move over the others, let go."""
        script = f"""(() => {{ const box = canvas.getBoundingClientRect();
            const [wide, high] = [box.width / canvas.width, box.height / canvas.height];
            return {json.dumps(places)}.map(p => {{ const [x, y] = pixel(p);
                return [box.left + x * wide, box.top + y * high]; }}); }})()"""
        pixels = self.value(script)
        kinds = ["mousePressed", *["mouseMoved"] * (len(pixels) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*pixels, pixels[-1]], strict=True):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, name: str) -> None:
        self.value(f"document.getElementById('{name}').click()")

    def close(self) -> None:
        self.stack.close()
        self.browser.terminate()
        self.browser.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_a_hand_in_a_browser(session: Session, port: int, tmp_path: Path) -> None:
    """Draw to the left, and the plans and then the robot go left; clear; nudge; a new episode."""
    pytest.importorskip("websockets", reason="websockets, of the dev extra, drives the browser")
    session.reset(0)
    tab = Tab(f"http://{HOST}:{port}/", tmp_path)
    try:
        tab.until("document.querySelectorAll('#strategy option').length === 6")
        middle = "state.plans.flat().reduce((sum, p) => sum + p[0], 0) / state.plans.flat().length"
        straight = tab.value(middle)
        tab.drag([[0.0, 0.0], [-0.1, 0.08], [-0.2, 0.16], [-0.25, 0.3], [-0.25, 0.8]])
        tab.until("state.error !== null")
        assert tab.value("document.getElementById('status').innerText").count("cm from the wish") == 1
        assert tab.value(middle) < straight - 0.02
        drawn = np.asarray(tab.value("drawn"))
        np.testing.assert_allclose(drawn[[0, -1]], [[0.0, 0.0], [-0.25, 0.8]], atol=0.01)
        tab.click("step")
        tab.until("state.time === 8")
        assert tab.value("state.trail.at(-1)[0]") < tab.value("state.trail[0][0]") - 0.02
        if "ROBOPOLICY_SCREENSHOT" in os.environ:
            picture = base64.b64decode(tab.send("Page.captureScreenshot")["data"])
            Path(os.environ["ROBOPOLICY_SCREENSHOT"]).write_bytes(picture)
        tab.click("clear")
        tab.until("state.error === null")
        tab.value("document.querySelector('input[value=nudge]').click()")
        here = tab.value("state.trail.at(-1)")
        tab.drag([here, [here[0] + 0.2, here[1]]])
        tab.until("state.error !== null")
        assert tab.value("wish().nudge.length") == 2
        tab.value("document.getElementById('strength').value = -1")
        tab.value("document.getElementById('strength').onchange()")
        tab.until("document.getElementById('error').textContent.includes('strength')")
        tab.click("reset")
        tab.until("state.time === 0")
        tab.value("document.querySelector('#strategy').value = 'random'; choose()")
        tab.click("run")
        tab.until("state.over !== ''")
    finally:
        tab.close()
