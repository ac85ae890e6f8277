"""A page that takes files: what it refuses, that nothing is left, and that its answers are those of predict."""

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
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_answers
import test_answers_of_clips
from made_workers import make_stub, make_waiting
from patience import PATIENCE, wait_until
from test_answers import _bomb, _chunk
from test_faces import film

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.worker_pool import LastingWorker, TooSlow, run_tasks
from resproto_fd.training.cli import main
from resproto_fd.training.commands import serve as command
from resproto_fd.training.serving.limits import Limits
from resproto_fd.training.serving.tasks import Opinionated, Outcome

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from resproto_fd.training.serving import answerer, server  # noqa: E402
from resproto_fd.training.serving.app import HEADERS, LOOPBACK, make_app, page_of  # noqa: E402
from resproto_fd.training.serving.desk import Desk, Refused  # noqa: E402

run, frames, run_of_clips = test_answers.run, test_answers.frames, test_answers_of_clips.run  # fixtures
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


def test_a_file_that_does_not_come_is_given_up_and_leaves_nothing(made, monkeypatch):
    monkeypatch.setattr("resproto_fd.training.serving.app.DRAIN", 0.01)
    client, said = made(StubDesk(replace(SMALL, seconds=0.1))), []
    parts = [{"type": "http.request", "body": PNG[:9], "more_body": True}]

    async def receive():
        return parts.pop() if parts else await asyncio.sleep(3600)

    async def send_back(message):
        said.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"x-resproto-token", b"secret")]
    scope = {"type": "http", "method": "POST", "path": "/answers", "query_string": b"", "headers": headers}
    asyncio.run(client.app(scope, receive, send_back))
    assert said[0]["status"] == 408 and b"0.1 seconds to come" in said[1]["body"]
    assert list(client.folder.iterdir()) == []


def test_a_server_whose_folder_was_tidied_away_says_so(made):
    desk = StubDesk()
    client = made(desk)
    client.folder.rmdir()
    found = send(client)
    assert found.status_code == 500 and "must be started again" in found.json()["error"]
    assert desk.seen == []


def test_a_film_that_lasts_too_long_and_a_picture_of_too_many_pixels_are_told_by_their_headers(tmp_path, monkeypatch):
    film(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 30)  # 1.2 seconds
    (tmp_path / "a").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "b").write_bytes(PNG)
    (tmp_path / "c").write_bytes(PNG[:20])
    places = [str(tmp_path / name) for name in "abc"]
    assert [answerer._excess(place, Limits()) for place in places] == ["", "", ""]
    assert "lasts 1 seconds; expected at most 0.5" in answerer._excess(places[0], Limits(film=0.5))
    monkeypatch.setenv("RESPROTO_MAX_PIXELS", "1000")
    assert "64 x 48 pixels; expected at most 1,000" in answerer._excess(places[0], Limits())
    assert "40 x 40 pixels; expected at most 1,000" in answerer._excess(places[1], Limits())


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "LIBRARIES", ("fastapi", "no_such_library"))
    assert main(["serve", "run"]) == 2
    assert "expected no_such_library installed; pip install 'resproto-fd[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--upload", "0"],
        ["--upload", "1" + "0" * 400],
        ["--queue", "-1"],
        ["--seconds", "nan"],
        ["--host", "no such"],
        ["--port", "70000"],
    ],
)
def test_limits_and_addresses_that_cannot_be_are_refused_before_a_run_is_loaded(words, capsys):
    assert main(["serve", "run", *words]) == 2
    assert f"{words[0]}" in capsys.readouterr().err


# --- other sites' pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"X-ResProto-Token": ""},
        {"X-ResProto-Token": "guessed"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Origin": "127.0.0.1:8000"},
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
    names, any_address = server.names_of("0.0.0.0", "0.0.0.0", ["lab.example"])
    assert any_address and {socket.gethostname(), *LOOPBACK, "lab.example"} <= set(names)
    assert server.names_of("lab.example", "10.0.0.1", []) == (["lab.example", "10.0.0.1"], False)
    assert [server.is_loopback(address) for address in ("::1", "127.0.1.1", "10.0.0.1")] == [True, True, False]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.1", "localhost", "0"])
def test_a_server_is_called_by_the_address_that_it_prints_and_the_one_it_listens_on(made, host):
    with server.bound(host, 0) as listening:
        address, port = listening.getsockname()
    names, any_address = server.names_of(host, address, [])
    client = made(names=names, any_address=any_address)
    assert [client.get("/", headers={"Host": f"{name}:{port}"}).status_code for name in (host, address)] == [200, 200]


@pytest.mark.parametrize("name", ["lab.example:8080", "http://lab.example", "", "[::1"])
def test_a_further_name_that_no_request_can_have_is_refused(name):
    with pytest.raises(UserError, match="--name: expected a name without a port"):
        server.names_of("127.0.0.1", "127.0.0.1", [name])


def test_two_servers_that_start_at_the_same_time_do_not_get_one_port():
    with server.bound("127.0.0.1", 0) as first, pytest.raises(UserError, match=r"cannot be had .*; set another --port"):
        server.bound("127.0.0.1", first.getsockname()[1])


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


@pytest.mark.slow
def test_a_worker_that_hangs_dies_or_faults_costs_its_task_alone(capsys):
    desk = Desk(make_stub, ("runs",), Limits(seconds=3, workers=1))
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
    assert "more than 3 seconds" in found[1][1] and "SIGKILL" in found[3][1]
    assert "own words" not in found[5][1] + capsys.readouterr().err


@pytest.mark.slow
def test_an_idle_worker_that_was_killed_costs_no_task(tmp_path):
    worker = LastingWorker(make_stub, (0,))
    process = worker.begin()
    process.kill()
    process.join()
    assert worker(7) == 7
    assert isinstance(worker("hang", 0.2), TooSlow)
    begun = tmp_path / "begun"
    threading.Thread(target=lambda: (wait_until(begun.exists), worker.end())).start()
    assert "SIGKILL" in str(worker(("hang", str(begun))))
    worker.end()


@pytest.mark.slow
def test_no_task_is_begun_far_beyond_the_oldest_that_has_no_answer(tmp_path):
    answers = run_tasks(make_waiting, (str(tmp_path),), list(range(6)), 2, ahead=2)
    assert {next(answers)[0], next(answers)[0]} == {1, 2}
    (tmp_path / "go").touch()
    assert next(answers) == (0, ["1", "2", "go"])  # 3 had not begun
    assert {number for number, _ in answers} == {3, 4, 5}


@pytest.mark.slow
def test_a_run_that_cannot_be_loaded_is_told_before_anything_is_served(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0", "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "expected the folder of a run" in said and "lets other machines in" in said


# --- the command, with a run ----------------------------------------------------------------------------------------

WORDS = ["--cropped", "--device", "cpu", "--frames", "8"]
LIMITS = ["--upload", "20", "--seconds", "300", "--queue", "2", "--film", "60"]


class Served:
    """A running `resproto serve`, with a temporary folder of its own."""

    def __init__(self, folder, place):
        self.place = place
        place.mkdir()
        words = ["serve", str(folder), "--port", "0", *WORDS, *LIMITS]
        code = "import sys; from resproto_fd.training.cli import main; sys.exit(main())"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        environment = {**os.environ, "TMPDIR": str(place)}
        self.process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, **pipes)
        line = self.process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + self.process.stdout.read()
        self.address = line.split()[0]
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE)
        token = re.search('data-token="([^"]+)"', self.client.get("/").text)[1]
        self.client.headers["X-ResProto-Token"] = token

    def send(self, data, name="a.png"):
        return self.client.post("/answers", content=data, headers={"X-ResProto-Name": name})

    def left(self):
        """What lies in the temporary folder, but for the server's own empty folder."""
        return [path for path in self.place.rglob("*") if not path.name.startswith("resproto-serve-")]

    def worker(self):
        """The number of its only worker's process."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == self.process.pid and b"spawn_main" in words:
                found.append(int(path.name))
        [number] = found
        return number

    def send_to_a_stopped_worker(self, data, threads, pause=1):
        """Sends a file that is at work, but will not be answered: (its future response, the worker's number)."""
        worker = self.worker()
        os.kill(worker, signal.SIGSTOP)
        coming = threads.submit(self.send, data)
        wait_until(lambda: sum(path.stat().st_size for path in self.left()) >= len(data))
        time.sleep(pause)  # until the task is in the worker's pipe
        return coming, worker

    def end(self, number):
        self.process.send_signal(number)
        said = self.process.communicate(timeout=PATIENCE)[0]
        return self.process.returncode, said


needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    """A server; at the end a stop signal ends it as it ends every command, and nothing is left."""
    found = Served(run, tmp_path_factory.mktemp("served") / "tmp")
    yield found
    code, said = found.end(signal.SIGTERM)
    assert code == 75 and "Traceback" not in said and "leaked" not in said
    assert list(found.place.iterdir()) == []


@pytest.fixture(scope="module")
def clip(frames, tmp_path_factory):
    """A film of test frames."""
    place = tmp_path_factory.mktemp("clip") / "clip.mp4"
    film(place, [cv2.imread(path)[..., ::-1] for path in frames[:6]])
    return place


def without_times(page):
    """A report but for the seconds that it took."""
    return re.sub(r", in \d+\.\d s", "", page.split('<section id="cost"')[0])


@pytest.mark.slow
@needs_linux
def test_a_picture_and_a_film_get_the_report_and_the_line_of_predict(served, run, frames, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in {"face.png": Path(frames[0]).read_bytes(), "clip.mp4": clip.read_bytes()}.items():
        Path(name).write_bytes(data)
        assert main(["predict", name, "--run", str(run), *WORDS, "--out", name + " out", "--quiet"]) == 0
        found = served.send(data, name)
        assert found.status_code == 200, found.text
        [row] = found.json()["files"]
        assert row == json.loads(Path(name + " out", "answers.jsonl").read_text())
        assert without_times(found.json()["report"]) == without_times(Path(name + " out", "report.html").read_text())
    assert served.left() == []


@pytest.mark.slow
@needs_linux
def test_a_run_of_clips_answers_a_film_with_the_line_of_predict(run_of_clips, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("film.mp4").write_bytes(clip.read_bytes())
    assert main(["predict", "film.mp4", "--run", str(run_of_clips), *WORDS, "--out", "out", "--quiet"]) == 0
    serving = Served(run_of_clips, tmp_path / "tmp")
    found = serving.send(clip.read_bytes(), "film.mp4")
    assert serving.end(signal.SIGTERM)[0] == 75
    [row] = found.json()["files"]
    assert row == json.loads(Path("out", "answers.jsonl").read_text())
    (opinion,) = row["faces"][0]["opinions"]
    assert [(each["first"], each["last"]) for each in opinion["clips"]] == [(0, 1), (4, 5)]


@pytest.mark.slow
@needs_linux
def test_each_hostile_file_has_a_clear_end_and_leaves_nothing(served, frames, clip):
    picture, whole = Path(frames[0]).read_bytes(), clip.read_bytes()
    huge = _chunk(b"IHDR", b"\x00\x00\x4e\x20" * 2 + b"\x08\x02\x00\x00\x00") + _chunk(b"IDAT", b"")
    grey = np.zeros((6000, 6000), np.uint8)
    hostile = {
        "empty.png": (b"", 415),
        "cut.png": (picture[: len(picture) // 2], 422),
        "cut.mp4": (whole[: len(whole) // 2], 422),
        "script.mp4": (b"#!/bin/sh\ntouch harm\n", 415),
        "vector.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415),
        "huge.png": (b"\x89PNG\r\n\x1a\n" + huge + _chunk(b"IEND", b""), 413),
        "bomb.png": (_bomb(), 413),
        "black.png": (cv2.imencode(".png", grey)[1].tobytes(), 200),
        "playlist.mp4": (b"#EXTM3U\nfile:///etc/passwd\n", 415),
        "noise.mp4": (b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 40, 422),
        "..%2F..%2Fa%27%22%0A.png": (picture, 200),
        "large.png": (picture + bytes(21 << 20), 413),
    }
    for name, (data, status) in hostile.items():
        found = served.send(data, name)
        assert found.status_code == status, (name, found.text[:300])
        assert status == 200 or found.json()["error"].endswith("."), name
        assert str(served.place) not in found.text and served.left() == [], name
    limits = Path(f"/proc/{served.worker()}/limits").read_text()
    assert re.search(r"Max data size +\d+", limits) and re.search(r"Max core file size +0", limits)


@pytest.mark.slow
@needs_linux
def test_many_files_at_once_are_answered_or_shed_and_the_server_answers_afterwards(served, frames):
    picture, worker = Path(frames[0]).read_bytes(), served.worker()
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(50) as threads:
        coming = [threads.submit(served.send, picture) for _ in range(50)]
        wait_until(lambda: sum(each.done() for each in coming) >= 47)
        os.kill(worker, signal.SIGCONT)
        found = Counter(each.result().status_code for each in coming)
    assert found == {200: 3, 503: 47}
    assert served.send(picture).status_code == 200
    assert served.left() == []


@pytest.mark.slow
@needs_linux
def test_a_worker_that_is_killed_costs_one_answer(served, frames):
    picture = Path(frames[0]).read_bytes()
    with ThreadPoolExecutor(1) as threads:
        for pause in (1, 10, 100):
            coming, worker = served.send_to_a_stopped_worker(picture, threads, pause)
            os.kill(worker, signal.SIGKILL)
            if coming.result().status_code != 200:  # else the task had not come to the worker yet
                break
        assert coming.result().status_code == 500 and "SIGKILL" in coming.result().json()["error"]
    assert served.send(picture).status_code == 200
    assert served.left() == []


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_server_that_is_ended_while_a_file_is_at_work_leaves_no_file_and_no_process(
    number, status, run, frames, tmp_path
):
    server_of_its_own = Served(run, tmp_path / "tmp")
    with ThreadPoolExecutor(1) as threads:
        coming, worker = server_of_its_own.send_to_a_stopped_worker(Path(frames[0]).read_bytes(), threads)
        if number == signal.SIGKILL:
            server_of_its_own.process.kill()
            server_of_its_own.process.wait()
            os.kill(worker, signal.SIGCONT)  # a stopped process sees no end of anything
        assert server_of_its_own.end(number)[0] == status
        if number == signal.SIGINT:
            assert coming.result().json()["error"].startswith("The server is stopping")
        else:
            assert isinstance(coming.exception(), httpx.TransportError)
    wait_until(lambda: not Path(f"/proc/{worker}").exists() and not any(server_of_its_own.place.iterdir()))


@pytest.mark.slow
@needs_linux
def test_files_that_are_dropped_in_a_browser_are_answered_on_the_page(browser, served, frames, clip, tmp_path):
    (tmp_path / "bad <b>name.txt").write_text("no picture")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(1000 * PATIENCE)
    faults, asked = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.address)
    page.set_input_files("#files", [frames[0], str(clip), str(tmp_path / "bad <b>name.txt")])
    page.wait_for_function("() => document.querySelectorAll('#given .verdict, #given .fault').length === 3")
    lines = page.locator("#given li").all_inner_texts()
    assert "bad <b>name.txt" in lines[0] and "neither a picture nor a film" in lines[0]
    assert "clip.mp4" in lines[1] and "P(fake)" in lines[2]
    frame = page.frames[-1]
    assert frame.locator("h3", has_text="clip.mp4").count() == 1
    frame.locator("a[href='#cost']").click()
    assert frame.evaluate("scrollY") > 0 and frame.evaluate("origin") == "null"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with page.expect_download() as saved:
        page.get_by_text("Save as JSON").first.click()
    assert json.loads(Path(saved.value.path()).read_text())["name"] == "clip.mp4"
    page.close()
    assert faults == [] and {url.removeprefix(served.address) for url in asked} <= {"", "answers", "data:,"}
