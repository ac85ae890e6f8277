"""Runs the application on a socket until a stop signal, and leaves nothing behind."""

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import uvicorn

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UserError, shown
from resproto_fd.training.serving.app import LOOPBACK, host_in, is_address
from resproto_fd.training.serving.desk import Desk

HIGHEST_PORT = 65_535
LAST_SECONDS = 5
"""Seconds that open connections have after a stop signal."""
SPARE_CONNECTIONS = 64
"""Connections beside those of files that are taken: of pages, and of files that are refused."""


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; who connects waits until `serve` begins. Port 0 takes a free one.

    Raises:
        UserError: There is no such address here, or the port is taken or needs more rights.
    """
    if not 0 <= port <= HIGHEST_PORT:  # the system would take another one
        raise UserError(f"--port: expected 0 to {HIGHEST_PORT}, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host: expected an address of this machine, got '{host}' ({error})") from None
    try:
        if os.name == "posix":  # elsewhere it lets two programs share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()  # two sockets may be bound to a port until one listens
    except OSError as error:
        made.close()
        raise UserError(f"--port: {host} port {port} cannot be had ({error}); set another --port") from None
    return made


def names_of(host: str, address: str, further: Sequence[str]) -> tuple[list[str], bool]:
    """What browsers may call a server: names, and whether addresses are all allowed.

    Args:
        host: What it was told to listen on.
        address: The address that it listens on.
        further: More names.

    Raises:
        UserError: A further name has a port or is no name.

    >>> names_of("localhost", "127.0.0.1", [])
    (['127.0.0.1', 'localhost', '::1', 'localhost', '127.0.0.1'], False)
    >>> names_of("192.0.2.7", "192.0.2.7", ["lab.example"])
    (['192.0.2.7', '192.0.2.7', 'lab.example'], False)
    """
    for name in further:
        if not name or (not is_address(name) and host_in(name) != name.lower()):
            raise UserError(f"--name: expected a name without a port, such as lab.example, got {shown(name)}")
    own = [host, address, *further]
    if ip_address(address).is_unspecified:
        return [*LOOPBACK, socket.gethostname(), *own], True
    return [*LOOPBACK, *own] if is_loopback(address) else own, False


def is_loopback(address: str) -> bool:
    """Whether only programs of this machine reach an address.

    >>> is_loopback("127.8.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return ip_address(address).is_loopback


def serve(app, desk: Desk, listening: socket.socket) -> None:
    """Serves until a stop signal comes, then ends the workers.

    Args:
        app: An ASGI application.
        desk: What it gives files to.
        listening: Of `bound`.

    Raises:
        Interrupted, KeyboardInterrupt: A signal came, see `stop_signals.look`.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=desk.limits.places + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    with stop_signals.noted():
        try:
            asyncio.run(_Server(config, desk).serve(sockets=[listening]))
        finally:
            desk.end()


class _Server(uvicorn.Server):
    """Stops at the house's stop signals, not at uvicorn's own, and does not wait for workers."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or stop_signals.asked()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._desk.end()
        await super().shutdown(sockets)
