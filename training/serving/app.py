"""The server's two addresses: `/`, the page, and `/answers`, which takes a file. What it refuses gets a sentence.

Nobody is asked who they are. But another site's page, open in the same browser, must not use the server: names that are
not the server's are refused (DNS rebinding), no other origin may read anything, and a file is only taken with a token
that stands in the page.
"""

import asyncio
import hmac
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from resproto_fd.configs.errors import cut
from resproto_fd.configs.files import DISK_FULL
from resproto_fd.preprocessing.picture_kinds import HEAD, kind_of
from resproto_fd.training.board.rendering import render_page
from resproto_fd.training.serving.desk import Desk, Refused
from resproto_fd.training.serving.limits import Limits
from resproto_fd.training.serving.tasks import Task

TOKEN, NAME = "X-ResProto-Token", "X-ResProto-Name"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_NAME = 100
DRAIN = 5
"""Seconds in which the rest of a refused file is read and dropped: a browser that cannot send it shows no reason."""
AGAIN = "30"
"""Seconds after which a file that found no place may be sent again."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FRAMES = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The page's own policy is in it; a browser obeys both. Only a header can say who may frame a page."""


class Guard:
    """Refuses requests to other names than the server's, and adds `HEADERS` to every response.

    Args:
        app: What it guards.
        names: Names and addresses that browsers may call the server by.
        any_address: Whether addresses are all allowed: no other site's name leads there.
    """

    def __init__(self, app: Callable, names: Sequence[str], any_address: bool) -> None:
        self._app, self._any = app, any_address
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def sending(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower(), value) for name, value in message["headers"]]
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                if not any(name == b"content-security-policy" for name, _ in headers):
                    own.append((b"content-security-policy", f"default-src 'none'; {FRAMES}".encode()))
                message = {**message, "headers": headers + own}
            await send(message)

        if scope["type"] != "http":
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        ours = len(hosts) == 1 and self._is_ours(hosts[0])
        app = self._app if ours else _saying(421, "This server has another name; set --name to allow it.")
        await app(scope, receive, sending)

    def _is_ours(self, host: str) -> bool:
        name = host_in(host)
        return name in self._names or (self._any and is_address(name))


def host_in(place: str) -> str:
    """The host of HOST:PORT, in small letters and without brackets; "" if there is none.

    >>> host_in("LAB.example:8000"), host_in("[::1]"), host_in("[::1")
    ('lab.example', '::1', '')
    """
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _saying(status: int, text: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)


def make_app(
    desk: Desk, folder: Path, page: str, token: str, names: Sequence[str] = LOOPBACK, any_address: bool = False
) -> Guard:
    """The application.

    Args:
        desk: Answers files.
        folder: Where a file lies while it is answered.
        page: What `/` shows, see `page_of`.
        token: What a request must know to send a file.
        names, any_address: See `Guard`.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/")
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": FRAMES})

    @app.post("/answers")
    async def take(request: Request) -> JSONResponse:
        try:
            return await _taken(request, desk, folder, token)
        except Refused as refused:
            return await _refusal(request, refused)
        except ClientDisconnect:
            return _saying(400, "The file did not come to its end.")

    @app.exception_handler(HTTPException)
    async def tell(request: Request, error: HTTPException) -> JSONResponse:
        return _saying(error.status_code, f"{error.detail}. There are / and, for files alone, /answers.")

    return Guard(app, names, any_address)


def page_of(limits: Limits, runs: Sequence[Any], token: str) -> str:
    """The page on which files are dropped.

    Args:
        limits: What it says of files that are too large.
        runs: Each has `name`, `meaning` and `notes`, see `answerer.Opinionated`.
        token: See `make_app`.
    """
    return render_page(
        "serve.html",
        "Real or fake?",
        "serve.html",
        links={},
        scripts=["serve.js"],
        allowed="connect-src 'self'; base-uri 'none'; form-action 'none'",
        limits=limits,
        runs=runs,
        token=token,
    )


async def _taken(request: Request, desk: Desk, folder: Path, token: str) -> JSONResponse:
    """The answer to a file, which lies in the folder meanwhile.

    Raises:
        Refused: It gets none.
        ClientDisconnect: It ended early.
    """
    _refuse_strangers(request, token)
    desk.enter()
    try:
        with _passing_file(folder) as place:
            await _receive(request, place, desk.limits)
            return await _answered(request, desk, place)
    finally:
        desk.leave()


def _refuse_strangers(request: Request, token: str) -> None:
    """Refuses what another site's page could send.

    Raises:
        Refused: It comes from another origin, or does not know the token.
    """
    origin, fetched = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != request.headers["host"].lower()
    if foreign or fetched != "same-origin":
        raise Refused(403, "Files are taken from this server's own page alone.")
    if not hmac.compare_digest(request.headers.get(TOKEN, "").encode(), token.encode()):
        raise Refused(403, f"Expected the page's token in the header {TOKEN}. Load the page again.")


@contextmanager
def _passing_file(folder: Path) -> Iterator[Path]:
    """A place for a file, which is empty again after the block. Its name says nothing, and has no suffix."""
    place = folder / secrets.token_hex(16)
    try:
        yield place
    finally:
        with suppress(FileNotFoundError):
            place.unlink()


async def _receive(request: Request, place: Path, limits: Limits) -> None:
    """Writes the request's body into a place.

    Raises:
        Refused: It is too large, is neither a picture nor a film, comes too slowly, or the disk is full.
        ClientDisconnect: It ended early.
    """
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or int(length) > limits.bytes:
        raise _too_large(limits)
    try:
        await asyncio.wait_for(_write(request, place, limits), limits.seconds)
    except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
        raise Refused(408, f"The file took more than {limits.seconds:g} seconds to come.") from None
    except FileNotFoundError:  # programs that tidy up remove old folders from /tmp
        raise Refused(500, "The server's folder for files was removed; the server must be started again.") from None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise Refused(507, "The server's disk is full.") from None


async def _write(request: Request, place: Path, limits: Limits) -> None:
    head, size = b"", 0
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        async for block in request.stream():
            size += len(block)
            if size > limits.bytes:
                raise _too_large(limits)
            if len(head) < HEAD:
                head += block[: HEAD - len(head)]
                if len(head) == HEAD:
                    _refuse_other_kinds(head)
            file.write(block)
    _refuse_other_kinds(head)


def _refuse_other_kinds(head: bytes) -> None:
    if not head:
        raise Refused(415, "The file is empty.")
    if kind_of(head) is None:
        raise Refused(415, "The file is neither a picture nor a film of a known kind; its first bytes tell.")


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"The file is too large; expected at most {limits.upload:,} MiB.")


async def _answered(request: Request, desk: Desk, place: Path) -> JSONResponse:
    name = cut(unquote(request.headers.get(NAME, "")).replace("\\", "/").rsplit("/", 1)[-1])[:LONGEST_NAME] or "file"
    found = await desk.answer(Task(str(place), name))
    if found.status != 200:
        raise Refused(found.status, found.text)
    return JSONResponse({"files": [found.row], "report": found.report})


async def _refusal(request: Request, refused: Refused) -> JSONResponse:
    """The response of a file that gets no answer, once the rest of it was dropped."""
    with suppress(TimeoutError, asyncio.TimeoutError, ClientDisconnect, RuntimeError):
        await asyncio.wait_for(_drop(request), DRAIN)
    headers = {"Retry-After": AGAIN} if refused.status == 503 else {}
    return _saying(refused.status, refused.text, **headers)


async def _drop(request: Request) -> None:
    async for _ in request.stream():
        pass
