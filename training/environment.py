"""What code and which libraries a number was made with."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def git_state(file: str | Path = __file__) -> tuple[str | None, bool | None]:
    """Commit of the checkout that a file belongs to, and whether tracked files differ from it.

    Args:
        file: A file of the code that ran; this package's own by default.

    Returns:
        (None, None) when the file is not tracked by git (an installed wheel) or git is absent.
    """
    file = Path(file).resolve()

    def git(*arguments: str) -> str:
        # A checkout's own settings could name a program to run here.
        command = ["git", "-c", "core.fsmonitor=false", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # a virtual environment may lie inside someone else's checkout
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("resproto-fd", "torch", "numpy", "scikit-learn", "open_clip_torch", "timm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
