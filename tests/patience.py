"""Waiting for other processes. A wait that succeeds costs nothing, so it may be long: the machine may be busy."""

import random
import socket
import time

PATIENCE = 900
"""Seconds after which what a test waits for hangs. It is under pytest's own limit, which would say less."""
PORTS = range(20_000, 32_768)
"""Ports that neither the system nor Ray gives to other programs."""


def wait_until(there, said=lambda: ""):
    """Waits until `there()` holds; `said()` tells what was seen instead."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline, said()
        time.sleep(0.02)


def free_port():
    """A port that nothing listens at, and that no other program is likely to get before the test uses it."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError(f"no free port among 100 of {PORTS}")
