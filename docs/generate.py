"""Pages made from the code at build time: methods, protocols, data sets, the reference, the commands.

MkDocs loads this as a hook (`hooks:` in mkdocs.yml). Nothing that it makes is committed. A page of this folder with the
name of a made page (docs/methods/mfclip.md) is put at the end of that page.
"""

import re
import tempfile
from functools import cache
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File
from site_pages import methods, protocols, reference
from site_pages.source import FOLDERS, ROOT

SECTIONS = {"Methods": "methods", "Protocols": "protocols", "Data sets": "datasets", "Reference": "reference"}
_TREE = tempfile.TemporaryDirectory(prefix="resproto_docs_")


@event_priority(100)
def on_config(config):
    """Tells mkdocstrings where the namespace's folders are, and completes the navigation."""
    handlers = config["plugins"]["mkdocstrings"].config["handlers"]
    handlers.setdefault("python", {})["paths"] = [str(_source_tree())]
    for section in config["nav"]:
        title, entries = next(iter(section.items()))
        if title in SECTIONS:
            made = [path for path in pages() if path.startswith(f"{SECTIONS[title]}/")]
            entries += [path for path in made if path not in entries]
    return config


def on_files(files, config):
    """Adds the made pages."""
    for path, text in pages().items():
        if written := files.get_file_from_path(path):
            text += "\n" + re.sub(r"\A# .*\n", "", written.content_string)
            files.remove(written)
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, **kwargs):
    """Hides the column of neighbours on pages that have none."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]


@cache
def pages() -> dict[str, str]:
    """Markdown of every made page, by its path below docs/."""
    benchmarks = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8").replace("](docs/", "](")
    made = {"benchmarks.md": benchmarks, "security.md": security}
    return {**methods.pages(), **protocols.pages(), **reference.pages(), **made}


@cache
def _source_tree() -> Path:
    """A folder with the namespace package as it is imported: mkdocstrings reads its files and imports nothing."""
    namespace = Path(_TREE.name) / "resproto_fd"
    namespace.mkdir()
    for folder in FOLDERS:
        (namespace / folder).symlink_to(ROOT / folder, target_is_directory=True)
    return Path(_TREE.name)
