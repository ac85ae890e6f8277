"""Stop signals: SIGTERM and SIGUSR1 of batch systems, SIGINT of Ctrl-C, and SIGHUP of a terminal that is closed.

A handler that raises does so in whatever code runs at that moment. Some of it drops exceptions (callbacks of fork,
destructors), and the signal would be lost. So a loop that has something to save runs in a block of `noted`: there the
handler only notes the signal, and the loop looks. Outside such blocks a command has nothing to save and ends at once.
"""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from resproto_fd.configs.errors import Interrupted

_NAMED = (getattr(signal, name, None) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"))
_HANGUP = getattr(signal, "SIGHUP", None)
STOP_SIGNALS = tuple(
    number
    for number in _NAMED
    if number is not None and not (number == _HANGUP and signal.getsignal(number) is signal.SIG_IGN)
)
"""Windows has no SIGUSR1 and no SIGHUP. Under `nohup` SIGHUP is ignored, and stays so."""
EXIT_INTERRUPTED = 75
"""EX_TEMPFAIL of sysexits.h: run the same command again."""
EXIT_CTRL_C = 130
"""Of a command that SIGINT ended, as shells have it."""


def name_of(number: int) -> str:
    """A signal's name; real-time signals have none.

    >>> name_of(9), name_of(40)
    ('SIGKILL', 'signal 40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_blocks = 0
_first: int | None = None
"""The first stop signal that was noted; it is forgotten when the outermost block ends."""
_stopping = False
"""Whether a stop was raised, and the command is on its way out."""
_half_done: dict[str, int] = {}
"""{file or folder: process that makes it}."""


@contextmanager
def on_stop_signal(handler: Callable) -> Iterator[None]:
    """Calls `handler(number, frame)` on a stop signal in the block. Outside the main thread it does nothing."""
    before = _set_all(handler)
    try:
        yield
    finally:
        _restore(before)


def _set_all(handler) -> dict[int, object]:
    """Sets the handler of every stop signal; returns those before."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def handle(number: int, frame) -> None:
        _leave_terminal(number)
        handler(number, frame)

    given = handle if callable(handler) else handler
    return {number: signal.signal(number, given) for number in STOP_SIGNALS}


def _restore(before: dict[int, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def kept() -> Iterator[None]:
    """After the block the handlers of stop signals are those from before, whatever a library put in their place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        _restore({number: handler for number, handler in before.items() if handler is not None})


@contextmanager
def noted() -> Iterator[None]:
    """In the block, stop signals are only noted, and `look` raises. The outermost block looks at its end, too.

    Raises:
        Interrupted, KeyboardInterrupt: See `look`.
    """
    global _blocks, _first
    _blocks += 1
    try:
        with on_stop_signal(_note):
            yield
        if _blocks == 1:
            look()
    finally:
        _blocks -= 1
        if not _blocks:
            _first = None


def _note(number: int, frame) -> None:
    global _first
    if _first is None:
        _first = number


def _leave_terminal(number: int) -> None:
    """After SIGHUP, sends what would be written to a terminal that is gone nowhere: an error would replace the stop."""
    for descriptor in (1, 2) if number == _HANGUP else ():
        try:
            os.write(descriptor, b"")
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def asked() -> bool:
    """Whether a stop signal was noted."""
    return _first is not None


def look(what: str = "stopped") -> None:
    """Raises if a stop signal was noted.

    Raises:
        Interrupted: It was any but SIGINT.
        KeyboardInterrupt: It was SIGINT.
    """
    if asked():
        raise stopped(what)


def stopped(what: str) -> BaseException:
    """Makes the exception of a stop; see `look`. Another process's stop is Interrupted."""
    global _stopping
    _stopping = True
    return KeyboardInterrupt(what) if _first == signal.SIGINT else Interrupted(what)


@contextmanager
def ending_at_once(name: str, at_end: bool) -> Iterator[None]:
    """In the block, stop signals end the process at once, blocks of `noted` excepted.

    The exit status is `EXIT_INTERRUPTED`, of SIGINT `EXIT_CTRL_C`. Once a stop was raised, further signals are ignored,
    after the block too: the exit status is that of the first.

    Args:
        name: The command, for the message.
        at_end: Whether the process ends after the block; signals are ignored then. If not, SIGINT is KeyboardInterrupt,
            since whoever called the command may go on.
    """
    global _stopping
    _stopping = False

    def end(number: int, frame) -> None:
        global _stopping
        if _stopping:
            return
        by_hand = number == signal.SIGINT
        if by_hand and not at_end:
            raise KeyboardInterrupt
        _stopping = True
        with suppress(OSError):
            word = "interrupted" if by_hand else "stopped"
            os.write(2, f"{name}: {word}; run the same command to go on from there\n".encode())
        _remove_half_done()
        os._exit(EXIT_CTRL_C if by_hand else EXIT_INTERRUPTED)

    before = _set_all(end)
    try:
        yield
    finally:
        if at_end or _stopping:
            _set_all(signal.SIG_IGN)
        else:
            _restore(before)


@contextmanager
def half_done(path: str | os.PathLike) -> Iterator[None]:
    """In the block, a stop signal that ends the process at once removes a file or folder first.

    Args:
        path: It may not exist yet, or not any more.
    """
    name = os.fspath(path)
    _half_done[name] = os.getpid()
    try:
        yield
    finally:
        _half_done.pop(name, None)


def _remove_half_done() -> None:
    """Removes what this process has half done; a forked one also knows its parent's, which it leaves."""
    for name, process in list(_half_done.items()):
        if process == os.getpid():
            shutil.rmtree(name, ignore_errors=True)  # of a file it leaves all
            with suppress(OSError):
                os.unlink(name)


@contextmanager
def blocked() -> Iterator[None]:
    """In the block, stop signals and ends of child processes wait. A process that is forked there begins like that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignores stop signals from now on, in a process that was made in a block of `blocked`."""
    _set_all(signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGCHLD})
