"""The shape of the code: modules in each folder, circles, backward imports, and the files that a frame passes.

The figures come from the files alone (`ast`): nothing is imported, so this also runs without the package's libraries.
"""

import argparse
import ast
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "resproto_fd"

ORDER = (
    ("configs", "configs.readers"),
    ("preprocessing",),
    ("preprocessing.store", "preprocessing.faces"),
    ("preprocessing.arrangers",),
    ("preprocessing.manifest_command",),
    ("preprocessing.audit", "preprocessing.demo"),
    ("losses",),
    ("detectors", "detectors.parts"),
    ("trainer", "trainer.augment"),
    ("training.scores",),
    ("training.measures",),
    ("training",),
    ("training.bench",),
    ("training.recording",),
    ("training.run",),
    ("training.packages",),
    ("training.explaining",),
    ("training.board",),
    ("training.answers",),
    ("training.serving",),
    ("training.sweeps",),
    ("training.commands",),
    ("training.train", "training.test", "training.cli"),
)
"""Rooms from low to high: a folder, or a module that stands higher or lower than the rest of its folder.

A module may import from its own row and from the rows above it in this table. Rooms of one row may import each other;
that no circle arises among their modules is checked apart from this.
"""

STORE_TO_LOSS = (
    "preprocessing.store.frame_store:LmdbStore.read_each",
    "preprocessing.store.image_codec:decode_frame",
    "trainer.data:FrameDataset._read_in_key_order",
    "trainer.data:FrameDataset._prepared",
    "trainer.augment.views:Viewing.__call__",
    "trainer.data:FrameDataset.__getitems__",
    "trainer.trainer:Trainer._one_epoch",
    "trainer.trainer:Trainer._step",
    "detectors.base:Detector.training_step",
    "detectors.parts.clip_detector:ClipDetector.encode",
    "detectors.resproto_fd:ResProtoFD.head",
    "losses.residual:ResidualLoss.forward",
)
"""From a stored frame to the loss of ResProto-FD, in the order in which a reader follows the frame."""

STORE_TO_PAGE = (
    "preprocessing.store.frame_store:LmdbStore.read_each_with_checksum",
    "preprocessing.store.image_codec:decode_frame",
    "trainer.data:FrameDataset.__getitems__",
    "trainer.scoring:score_frames",
    "detectors.resproto_fd:ResProtoFD.head",
    "training.bench:Bench._table",
    "training.scores:ScoreTable.of_frames",
    "training.measures.metrics:table_metrics",
    "training.results:test_result",
    "training.recording:_result",
    "training.results:RunResult.save",
    "training.board.collecting:collect",
    "training.board.table:sections",
    "training.board.index_page:render",
)
"""From a stored frame to its number on the board."""


@dataclass
class Imports:
    """Who imports whom in the package.

    Attributes:
        files: File of each module, by the module's name without the package's ("trainer.data").
        edges: The modules that each module imports.
    """

    files: dict[str, Path]
    edges: dict[str, set[str]] = field(default_factory=dict)

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or by way of others; Tarjan's algorithm."""
        found, index, low, stack = [], {}, {}, []

        def visit(module: str) -> None:
            index[module] = low[module] = len(index)
            stack.append(module)
            for other in sorted(self.edges[module]):
                if other not in index:
                    visit(other)
                if other in stack:
                    low[module] = min(low[module], low[other])
            if low[module] == index[module]:
                members = stack[stack.index(module) :]
                del stack[len(stack) - len(members) :]
                if len(members) > 1:
                    found.append(sorted(members))

        for module in sorted(self.edges):
            if module not in index:
                visit(module)
        return sorted(found)

    def backward(self) -> list[tuple[str, str]]:
        """(module, imported module) of each import of a room that `ORDER` puts higher."""
        pairs = [(module, other) for module, others in self.edges.items() for other in others]
        return sorted(pair for pair in pairs if level(pair[0]) < level(pair[1]))

    def modules_a_folder(self) -> dict[str, int]:
        """Number of modules in each folder, `__init__` not counted."""
        paths = (path for path in self.files.values() if path.name != "__init__.py")
        return dict(sorted(Counter(path.parent.relative_to(ROOT).as_posix() for path in paths).items()))


def read_imports(root: Path = ROOT) -> Imports:
    """The package's imports: at the top, inside functions, and for the type checker alone.

    Imports under TYPE_CHECKING count. They never run, but who reads the file must know the other file as well, and they
    are how a circle is hidden.
    """
    folders = [folder for row in ORDER for folder in row if "." not in folder]
    graph = Imports({_name(path, root): path for folder in folders for path in sorted((root / folder).rglob("*.py"))})
    for module, path in graph.files.items():
        names = _imported(ast.parse(path.read_text(encoding="utf-8")), module, path.name == "__init__.py")
        graph.edges[module] = {name for name in (_known(name, graph.files) for name in names) if name} - {module}
    return graph


def level(module: str) -> int:
    """Row of `ORDER` that a module belongs to: the one with the longest matching room."""
    fits = [
        (len(room), row)
        for row, rooms in enumerate(ORDER)
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    return max(fits)[1]


def way(steps: tuple[str, ...]) -> dict[str, int]:
    """Figures of a way through the files: "module:function" in the order in which a frame, then its score, meets them.

    Returns:
        files: Different files; moves: times the reader goes to another file; returns: moves to a file that was left
        before.
    """
    visits = [step.partition(":")[0] for step in steps]
    visits = visits[:1] + [after for before, after in pairwise(visits) if after != before]
    files = len(set(visits))
    return {"files": files, "moves": max(len(visits) - 1, 0), "returns": len(visits) - files}


def unknown_steps(steps: tuple[str, ...], graph: Imports) -> list[str]:
    """Steps of a way that name no function of their file."""
    wrong = []
    for step in steps:
        module, _, function = step.partition(":")
        known = _functions(ast.parse(graph.files[module].read_text(encoding="utf-8"))) if module in graph.files else []
        wrong += [step] if function not in known else []
    return wrong


def figures() -> dict:
    """All figures, for JSON."""
    graph = read_imports()
    return {
        "benchmark": "house",
        "modules": sum(graph.modules_a_folder().values()),
        "imports": sum(map(len, graph.edges.values())),
        "modules_a_folder": graph.modules_a_folder(),
        "circles": graph.circles(),
        "backward": graph.backward(),
        "store_to_loss": way(STORE_TO_LOSS),
        "store_to_page": way(STORE_TO_PAGE),
    }


def main() -> None:
    """Prints the figures as a table and as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    found = figures()
    if not parser.parse_args().json_only:
        for folder, count in found["modules_a_folder"].items():
            print(f"{folder:28}{count:4} modules")
        print(f"{'in all':28}{found['modules']:4} modules, {found['imports']} imports of each other")
        print(f"{'circles':28}{len(found['circles']):4}", *(", ".join(circle) for circle in found["circles"]), sep="  ")
        print(f"{'backward imports':28}{len(found['backward']):4}", *map(" -> ".join, found["backward"]), sep="  ")
        for name in ("store_to_loss", "store_to_page"):
            print(f"{name.replace('_', ' '):28}", ", ".join(f"{count} {what}" for what, count in found[name].items()))
        print()
    print(json.dumps(found))


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST, module: str, is_package: bool) -> list[str]:
    """Full names that a module imports, relative ones resolved; for `from a import b` it is a.b."""
    home = [PACKAGE, *module.split(".")]
    home = home if is_package else home[:-1]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def _known(name: str, files: dict[str, Path]) -> str | None:
    """The module that an imported name is, or is taken from."""
    own = name.removeprefix(f"{PACKAGE}.")
    if own == name:
        return None
    return own if own in files else own.rpartition(".")[0] if own.rpartition(".")[0] in files else None


def _functions(tree: ast.AST, prefix: str = "") -> list[str]:
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found += [prefix + node.name, *_functions(node, f"{prefix}{node.name}.")]
    return found


if __name__ == "__main__":
    main()
