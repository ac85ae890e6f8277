"""`resproto serve`: a page on which files are dropped, and what `resproto predict` says of them."""

import argparse
import importlib.util
import secrets
import sys

from resproto_fd.configs.errors import UserError
from resproto_fd.training.commands.arguments import add_device, add_trust
from resproto_fd.training.commands.predict import RULES, add_rules

LIBRARIES = ("fastapi", "uvicorn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder; several give opinions")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on; others than this machine's own (127.0.0.1) let others in, and nobody is asked for a "
        "password (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--name",
        dest="names",
        action="append",
        default=[],
        help="a further name by which browsers reach the server, as that of a proxy",
    )
    _add_limits(parser)
    add_rules(parser)
    add_device(parser)
    add_trust(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds what a stranger's file may take, see `serving.limits`."""
    parser.add_argument("--upload", type=int, metavar="MIB", help="largest file (default: 200)")
    parser.add_argument("--film", type=float, metavar="SECONDS", help="longest film (default: 600)")
    parser.add_argument(
        "--pixels", type=int, metavar="N", help="most pixels of a picture or a film's frame (default: 50,000,000)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="most seconds until a file has come, and after that until it is answered (default: 120)",
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="most memory that a file may take, on Linux (default: 4)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="files answered at the same time (default: 1)")
    parser.add_argument("--queue", type=int, metavar="N", help="files that may wait (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Runs `resproto serve` until a stop signal comes.

    Raises:
        UserError: A library is not installed, a limit or the address cannot be had, or a run cannot be loaded.
        Interrupted, KeyboardInterrupt: A signal came.
    """
    if absent := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise UserError(f"expected {' and '.join(absent)} installed; pip install 'resproto-fd[serve]'")
    from resproto_fd.training.serving import server
    from resproto_fd.training.serving.desk import Desk
    from resproto_fd.training.serving.limits import Limits

    given = {name: getattr(args, name) for name in Limits.__dataclass_fields__}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    with server.bound(args.host, args.port) as listening:  # before the runs are loaded, not after it
        address = listening.getsockname()[0]
        names = server.names_of(args.host, address, args.names)
        if not server.is_loopback(address):
            print(
                f"note: --host {args.host} lets other machines in. The server asks nobody for a password and does not "
                "encrypt; put a proxy that does before it.",
                file=sys.stderr,
            )
        desk = Desk(_answerer, _arguments(args, limits), limits)
        try:
            _serve(args.host, desk, listening, names)
        finally:
            desk.end()
    return 0


def _serve(host: str, desk, listening, names: tuple[list[str], bool]) -> None:
    from resproto_fd.configs.files import passing_folder
    from resproto_fd.training.serving import server
    from resproto_fd.training.serving.app import make_app, page_of

    runs, token = desk.begin(), secrets.token_urlsafe(32)
    with passing_folder("resproto-serve-") as folder:
        app = make_app(desk, folder, page_of(desk.limits, runs, token), token, *names)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listening.getsockname()[1]}/ answers until it is stopped (Ctrl-C)", flush=True)
        server.serve(app, desk, listening)


def _arguments(args: argparse.Namespace, limits) -> tuple:
    from resproto_fd.training.answers.records import Settings

    settings = Settings(**{name: getattr(args, name) for name in RULES}, device=args.device)
    return args.runs, args.trust_code, settings, limits


def _answerer(*arguments):
    """Makes the worker in its own process; a server itself imports no PyTorch."""
    from resproto_fd.training.serving.answerer import Answerer

    return Answerer(*arguments)
