"""A page that takes files: what it refuses, that nothing is left, and that its answers are those of `resproto predict`."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_answers import _bomb, _chunk, frames, run  # noqa: F401
from test_faces import film

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.worker_pool import CannotStart, LastingWorker, TooSlow, WorkerDied
from resproto_fd.training.cli import main
from resproto_fd.training.commands import serve as command
from resproto_fd.training.serving.limits import Limits
from resproto_fd.training.serving.tasks import Opinionated, Outcome

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from resproto_fd.training.serving import server  # noqa: E402
from resproto_fd.training.serving.app import HEADERS, LOOPBACK, Guard, make_app, page_of  # noqa: E402
from resproto_fd.training.serving.desk import Desk, Refused  # noqa: E402

PNG = cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes()
SMALL = Limits(upload=1, seconds=5, queue=1)
RUNS = [Opinionated("A <run>", ["It means."], ["A note."])]
TOKEN = {"X-ResProto-Token": "secret"}


class StubDesk(Desk):
    """Answers in this process: with the file's size, its name, and the names of what lies in the folder."""

    def __init__(self, limits=SMALL, outcome=None):
        super().__init__(None, (), limits)
        self.outcome, self.seen = outcome, []

    async def answer(self, task):
        path = Path(task.path)
        self.seen.append((path.read_bytes(), task.name, sorted(each.name for each in path.parent.iterdir()), path.name))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or Outcome(200, row={"name": task.name, "verdict": "real"}, report="<html>")


@pytest.fixture
def made(tmp_path):
    """`made(desk)`: a client of the application whose files lie in `folder` meanwhile."""
    folder = tmp_path / "passing"
    folder.mkdir()

    def client(desk=None, base="http://127.0.0.1:8000", **keywords):
        found = TestClient(make_app(desk or StubDesk(), folder, page_of(SMALL, RUNS, "secret"), "secret", **keywords))
        found.base_url = base
        found.folder = folder
        return found

    return client


def send(client, data=PNG, name="a.png", **headers):
    return client.post("/answers", content=data, headers={**TOKEN, "X-ResProto-Name": name, **headers})


# --- what is taken and what is refused ------------------------------------------------------------------------------


def test_a_file_is_answered_under_its_name_and_lies_nowhere_afterwards(made):
    desk = StubDesk()
    client = made(desk)
    found = send(client, name="my%20photo.png")
    assert found.json() == {"files": [{"name": "my photo.png", "verdict": "real"}], "report": "<html>"}
    [(data, name, inside, own)] = desk.seen
    assert (data, name, inside) == (PNG, "my photo.png", [own])
    assert list(client.folder.iterdir()) == []


@pytest.mark.parametrize(
    "name, shown",
    [
        ("..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("C%3A%5Ctemp%5Cx.png", "x.png"),
        ("a%27%3Cb%3E%0Aname.png", "a'<b>\\nname.png"),
        ("%00", "\\x00"),
        ("", "file"),
        ("x" * 1000, "x" * 100),
    ],
)
def test_a_name_is_shown_and_is_no_path(made, name, shown):
    desk = StubDesk()
    client = made(desk)
    assert send(client, name=name).json()["files"][0]["name"] == shown
    [(_, _, inside, own)] = desk.seen
    assert inside == [own] and re.fullmatch("[0-9a-f]{32}", own)
    assert list(client.folder.parent.rglob("*")) == [client.folder]


@pytest.mark.parametrize(
    "data, status, words",
    [
        (b"", 415, "empty"),
        (b"#!/bin/sh\ntouch /tmp/harm\n", 415, "neither a picture nor a film"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415, "neither"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1 << 20), 413, "at most 1 MiB"),
    ],
)
def test_what_is_too_large_or_no_picture_is_refused_with_a_sentence(made, data, status, words):
    def parts():
        yield from (data[i : i + 4096] for i in range(0, len(data), 4096))

    desk = StubDesk()
    client = made(desk)
    for body in (data, parts()):  # with and without a stated length
        found = send(client, body, "film.mp4")
        assert found.status_code == status and words in found.json()["error"]
    assert desk.seen == [] and list(client.folder.iterdir()) == []


@pytest.mark.parametrize("status", [413, 422, 500, 503, 504])
@pytest.mark.parametrize("raised", [False, True])
def test_an_answer_that_fails_is_a_status_and_a_sentence_and_leaves_no_file(made, status, raised):
    client = made(StubDesk(outcome=Refused(status, "So it is.") if raised else Outcome(status, "So it is.")))
    found = send(client)
    assert (found.status_code, found.json()) == (status, {"error": "So it is."})
    assert ("retry-after" in found.headers) == (status == 503)
    assert list(client.folder.iterdir()) == []


def test_a_full_house_sheds_files_and_takes_them_again_when_there_is_room(made):
    desk = StubDesk()
    client = made(desk)
    for _ in range(SMALL.places):
        desk.enter()
    assert send(client).status_code == 503
    desk.leave()
    assert send(client).status_code == send(client).status_code == 200
    desk.end()
    assert send(client).json()["error"].startswith("The server is stopping")


def test_a_fault_of_the_program_leaves_no_file_and_takes_no_place(made):
    client = made(StubDesk(outcome=RuntimeError("a bug")))
    for _ in range(SMALL.places + 1):
        with pytest.raises(RuntimeError, match="a bug"):
            send(client)
    assert list(client.folder.iterdir()) == []


# --- other sites' pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"X-ResProto-Token": ""},
        {"X-ResProto-Token": "guessed"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_file_from_another_sites_page_is_refused(made, headers):
    desk = StubDesk()
    assert send(made(desk), **headers).status_code == 403
    assert desk.seen == []


def test_the_servers_own_page_may_send_a_file(made):
    headers = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert send(made(), **headers).status_code == 200


@pytest.mark.parametrize(
    "host, keywords, ours",
    [
        ("127.0.0.1:8000", {}, True),
        ("localhost:8000", {}, True),
        ("[::1]:8000", {}, True),
        ("rebound.example:8000", {}, False),
        ("192.0.2.7:8000", {}, False),
        ("127.0.0.1.evil.example", {}, False),
        ("127.0.0.1@evil.example", {}, False),
        ("[::1", {}, False),
        ("192.0.2.7:8000", {"names": ["localhost"], "any_address": True}, True),
        ("evil.example:8000", {"names": ["localhost"], "any_address": True}, False),
        ("LAB.example", {"names": ["lab.EXAMPLE"]}, True),
    ],
)
def test_only_the_servers_own_names_are_served(made, host, keywords, ours):
    found = made(**keywords).get("/", headers={"Host": host})
    assert found.status_code == (200 if ours else 421)
    assert ours or "secret" not in found.text


def test_a_server_that_listens_everywhere_is_called_by_addresses_and_its_own_names_alone():
    assert server.names_of("127.0.0.1", ["lab.example"]) == ([*LOOPBACK, "lab.example"], False)
    names, any_address = server.names_of("0.0.0.0", [])
    assert any_address and socket.gethostname() in names
    assert [server.is_loopback(host) for host in ("::1", "lab.example", "10.0.0.1")] == [True, False, False]


def test_every_response_has_the_headers_and_no_other_origin_may_read_it(made):
    client = made()
    for found in (
        *(client.get(path) for path in ("/", "/answers", "/docs", "/openapi.json", "/../x")),
        client.get("/", headers={"Host": "x"}),
        client.options("/answers", headers={"Origin": "http://x", "Access-Control-Request-Method": "POST"}),
        send(client),
    ):
        assert {name: found.headers[name] for name in HEADERS} == HEADERS
        assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
        assert not [name for name in found.headers if name.startswith("access-control")]
        assert found.status_code == 200 or found.json()["error"].count(" ") > 2


def test_the_page_is_whole_and_its_policy_lets_it_reach_its_own_server_alone(made):
    text = made().get("/").text
    [policy] = re.findall('Content-Security-Policy" content="([^"]+)"', text)
    assert "default-src &#39;none&#39;" in policy and "connect-src &#39;self&#39;" in policy
    assert policy.count("sha256-") == text.count("<script>") == 3
    assert "http://" not in text and "https://" not in text and "unsafe-eval" not in text
    assert "A &lt;run&gt;" in text and 'data-token="secret"' in text


# --- the desk and its workers ---------------------------------------------------------------------------------------


def make_stub(seconds):
    """A worker that sleeps, ends itself, or faults, as the task says; loading it takes a moment."""
    if seconds is None:
        raise UserError("no such run")

    def work(task):
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "fault":
            raise ValueError("the file's own words")
        if task == "hang":
            time.sleep(600)
        return "runs" if task is None else task

    return work


@pytest.mark.slow
def test_a_worker_that_hangs_dies_or_faults_costs_its_task_alone(capsys):
    desk = Desk(make_stub, (0,), Limits(seconds=0.5, workers=1))
    assert desk.begin() == "runs"

    async def ask():
        found = []
        for task in (1, "hang", 2, "die", 3, "fault", 4):
            try:
                found.append(await desk.answer(task))
            except Refused as refused:
                found.append((refused.status, refused.text))
        return found

    found = asyncio.run(ask())
    desk.end()
    assert found[::2] == [1, 2, 3, 4]
    assert [status for status, _ in found[1::2]] == [504, 500, 500]
    assert "more than 0.5 seconds" in found[1][1] and "SIGKILL" in found[3][1]
    assert "own words" not in found[5][1] + capsys.readouterr().err


@pytest.mark.slow
def test_an_idle_worker_that_was_killed_costs_no_task():
    worker = LastingWorker(make_stub, (0,))
    process = worker.begin()
    process.kill()
    process.join()
    assert worker(7) == 7
    assert isinstance(worker("hang", 0.2), TooSlow)
    threading.Timer(0.3, worker.end).start()
    assert isinstance(worker("hang"), WorkerDied | CannotStart)
    worker.end()


@pytest.mark.slow
def test_a_run_that_cannot_be_loaded_is_told_before_anything_is_served(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
