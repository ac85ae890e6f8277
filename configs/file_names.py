"""Names that become files and folders: of protocols, detectors, data sets, videos. One rule for all of them."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from resproto_fd.configs.errors import UserError

LONGEST = 200
"""Bytes of a name. File systems take 255, of which suffixes and the marks of half-written files need some."""
FORBIDDEN = '/\\:*?"<>|'
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Devices of Windows, with any suffix."""


def fault_of(name: str) -> str:
    """Why a name cannot be that of one file on Linux, macOS and Windows alike; "" if it can.

    >>> fault_of("Celeb-DF-v2"), fault_of("../../x"), fault_of("nul.npz")
    ('', "it has '/'", 'it is a name that Windows reserves')
    """
    if not name:
        return "it is empty"
    if not name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in name):
        return "it has letters that cannot be printed"
    if found := [letter for letter in FORBIDDEN if letter in name]:
        return f"it has {found[0]!r}"
    if name[0] in ". " or name[-1] in ". ":
        return "it begins or ends with a dot or a space"
    if RESERVED.fullmatch(name):
        return "it is a name that Windows reserves"
    if (size := len(name.encode())) > LONGEST:
        return f"it has {size} bytes, more than {LONGEST}"
    return ""


def plain_name(name: str, what: str, remedy: str = "") -> str:
    """The name, which can be that of one file or folder.

    Args:
        name: The name.
        what: What it names, for the message ("protocol name").
        remedy: What to do, for the message.

    Raises:
        UserError: It cannot.
    """
    if fault := fault_of(name):
        raise UserError(f"{what}: {expected(name, fault)}{remedy and '; '}{remedy}")
    return name


def expected(name: str, fault: str) -> str:
    """Words for a name that has a fault; a long one is shortened."""
    shown = name if len(name) <= 60 else f"{name[:60]}..."
    return f"expected a name that a file can have, got {shown!r}: {fault}"


def safe_name(name: str) -> str:
    """The name if it can be a file's; else one made of it, with a hash, different for each name.

    >>> safe_name("000_003"), safe_name("a/b")
    ('000_003', 'a_b-c14cddc0')
    """
    return hashed_name(name) if fault_of(name) else name


def hashed_name(name: str) -> str:
    """A file's name made of any text: what can be kept of it, and a hash of it."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = "".join(letter if letter.isalnum() or letter in "-_.+() " else "_" for letter in name)
    kept = kept.encode("utf-8", "ignore")[: LONGEST // 2].decode("utf-8", "ignore")
    kept = kept.strip(". ") or "unnamed"
    return f"{'_' if RESERVED.fullmatch(kept) else ''}{kept}-{digest}"


def folded(name: str) -> str:
    """What two names have in common if some file system takes them for one: they differ in case or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def twins(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that some file system takes for one.

    >>> twins(["Demo-A", "demo-a", "Demo-B"])
    [('Demo-A', 'demo-a')]
    """
    first: dict[str, str] = {}
    pairs = [(first.setdefault(folded(name), name), name) for name in names]
    return [(one, other) for one, other in pairs if one != other]


def refuse_twin(path: Path, levels: int = 1) -> None:
    """Refuses a new folder beside one whose name differs in case or Unicode form alone.

    Args:
        path: The folder.
        levels: How many parts of its path, from the last one, are looked at.

    Raises:
        UserError: There is such a folder.
    """
    for place in (path, *path.parents)[:levels]:
        try:
            present = os.listdir(place.parent)
        except OSError:
            continue
        other = next((name for name in present if folded(name) == folded(place.name)), place.name)
        if place.name not in present and other != place.name:
            raise UserError(
                f"{place}: {place.parent / other} exists, whose name differs in case or Unicode form alone; on some "
                "machines they are one folder: use the same name, or one that differs more"
            )
