"""Where the code is that pages are made from."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("configs", "detectors", "losses", "preprocessing", "trainer", "training")


@cache
def registered() -> dict[str, tuple[str, str]]:
    """Name of each detector class in detectors/ -> (its module, its class)."""
    found = {}
    for path in sorted((ROOT / "detectors").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
                    found[decorator.args[0].value] = (module_name(path), node.name)
    return found


def module_name(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["resproto_fd", *(parts[:-1] if parts[-1] == "__init__" else parts)])


def source_of(module: str) -> str:
    """The text of a module."""
    return (ROOT / (module.removeprefix("resproto_fd.").replace(".", "/") + ".py")).read_text(encoding="utf-8")


def docstring(module: str, cls: str = "") -> str:
    """The docstring of a module, or of a class in it, read without importing it."""
    node = ast.parse(source_of(module))
    if cls:
        node = next(each for each in node.body if isinstance(each, ast.ClassDef) and each.name == cls)
    return ast.get_docstring(node) or ""
