"""What a page costs that answers dropped files: seconds until it is there, seconds a picture, and uploads a second.

It starts `resproto serve` on a free port and sends it one picture again and again, first one by one, then as many at
the same time as it takes.
"""

import argparse
import json
import re
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from resproto_fd.training.child_process import start


def main() -> None:
    """Prints the figures and, last, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("picture", metavar="PICTURE", help="what is sent")
    parser.add_argument("--uploads", type=int, default=20, help="of each kind (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="of the server (default: %(default)s)")
    parser.add_argument("--cropped", action="store_true", help="the picture is an already cropped face")
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    args = parser.parse_args()
    words = ["serve", args.run, "--port", "0", "--workers", str(args.workers), "--queue", str(args.workers)]
    began = time.perf_counter()
    server = start([*words, *["--cropped"] * args.cropped], subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split(" ")[0]
        if not address.startswith("http://"):
            raise SystemExit(f"the server did not start: {address}{server.stdout.read()}")
        found = {"seconds_to_start": time.perf_counter() - began} | _measured(address, args)
    finally:
        server.stdin.close()
        server.wait()
    found = {name: round(value, 4) for name, value in found.items()}
    if not args.json_only:
        for name, value in found.items():
            print(f"{name:20} {value}")
    print(json.dumps({"benchmark": "serve", "workers": args.workers, "cropped": args.cropped, **found}))


def _measured(address: str, args: argparse.Namespace) -> dict[str, float]:
    data = Path(args.picture).read_bytes()
    page = urllib.request.urlopen(address).read().decode()
    token = re.search('data-token="([^"]+)"', page)[1]

    def send(_) -> float:
        began = time.perf_counter()
        asked = urllib.request.Request(f"{address}answers", data, {"X-ResProto-Token": token})
        urllib.request.urlopen(asked).read()  # raises if it is refused
        return time.perf_counter() - began

    first = send(0)
    alone = [send(i) for i in range(args.uploads)]
    began = time.perf_counter()
    with ThreadPoolExecutor(2 * args.workers) as threads:
        list(threads.map(send, range(args.uploads)))
    together = time.perf_counter() - began
    return {"first": first, "seconds_a_picture": median(alone), "uploads_a_second": args.uploads / together}


if __name__ == "__main__":
    main()
