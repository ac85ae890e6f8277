"""A function of the user's as a detector: `resproto test --callable my.py:score`.

The function gets a list of pictures and returns P(fake) of each. It is code, so its name is taken from the command line
alone: no configuration, run folder or package can name one.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from resproto_fd.configs.errors import UserError, cut, shown
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.schema import DetectorConfig, RunConfig
from resproto_fd.configs.suggestions import nearest
from resproto_fd.training.commands import arguments
from resproto_fd.training.commands.submit import OF_LOGITS, Place, check_about, facts_about, save_result
from resproto_fd.training.overriding import configuration

Score = Callable[[list[np.ndarray]], Sequence[float]]
REFUSED = ("detector", "detector_path", "run_folder", "weights_path", "package", "train_dataset", "task_target")
"""Arguments of `test` that say which detector of ours is tested, or what it was trained on."""
REMEDY = "give another --name, --seed or --out, or remove the folder"


def run(args: argparse.Namespace) -> int:
    """Scores a protocol's frames by the function that `args.callable` names, and makes a result of the scores."""
    config = _config(args)
    from resproto_fd.trainer.checkpoint import seed_everything
    from resproto_fd.training import protocols
    from resproto_fd.training.results import RunResult
    from resproto_fd.training.settings import folder_of

    folder = folder_of(config)
    if (folder / "result.json").exists():  # before the scores are computed
        raise UserError(f"{folder}: holds a result already; {REMEDY}")
    seed_everything(config.seed)
    score, file = imported(args.callable)
    name = args.callable if file is None else f"{file.name}:{args.callable.rpartition(':')[2]}"  # no folder of yours
    resolved = protocols.resolve(config.protocol, config.data, tests_only=True)
    for note in resolved.notes:
        print(f"note: {note}", file=sys.stderr)
    given, bad = {}, {}
    for test_set, frames in resolved.tests.items():
        given[test_set], bad[test_set] = _scored(score, args.callable, frames, resolved.stores, config)
    tests = {test_set: frames.without(bad[test_set]) for test_set, frames in resolved.tests.items()}
    lost = {test_set: resolved.left_out.get(test_set, 0) + len(paths) for test_set, paths in bad.items()}
    path = save_result(
        replace(resolved, tests=tests, left_out=lost),
        given,
        Place(config.run.out, args.name, config.seed),
        checkpoint=sha256_of(file) if file else None,
        remedy=REMEDY,
        source="callable",
        detector_class=name,
        **facts_about(args, resolved),
    )
    arguments.print_result(RunResult.load(path), path.parent)
    return 0


def imported(target: str) -> tuple[Score, Path | None]:
    """The function that a word of the command line names: "my.py:score", or "package.module:score".

    Args:
        target: A file or a module, and the function's name in it. A file's folder is not put on the path.

    Returns:
        (the function, its file; None if the module has none).

    Raises:
        UserError: There is no such file, module or function, or it cannot be imported.
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise UserError(f"--callable: expected FILE.py:FUNCTION or MODULE:FUNCTION, got {shown(target)}")
    file = Path(where) if where.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UserError(f"--callable {target}: no such file {file}")
    try:
        module = importlib.import_module(where) if file is None else _of_file(file)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise SystemExit too
        hint = "; put the folder of modules that it imports into PYTHONPATH" if isinstance(error, ImportError) else ""
        raise UserError(f"--callable {target}: {where} cannot be imported: {_told(error)}{hint}") from error
    found = getattr(module, name, None)
    if not callable(found):
        kind = f"has no {name}{nearest(name, vars(module))}" if found is None else f"{name} is no function"
        raise UserError(f"--callable {target}: {where}: {kind}")
    own = getattr(module, "__file__", None)
    return found, file or (Path(own) if own else None)


def answers(score: Score, target: str, pictures: list[np.ndarray], frames: Sequence[str]) -> np.ndarray:
    """What a function answers for some pictures: P(fake) in [0, 1], or NaN for no answer, float64 [B].

    Args:
        score: The function.
        target: Its name, for messages.
        pictures: RGB uint8, [H, W, 3] each; sizes may differ.
        frames: The pictures' names, for messages.

    Raises:
        UserError: The function raises, or its answer is not a number in [0, 1] or NaN for each picture.
    """
    try:
        found = score(pictures)
        # A tensor on a GPU, or one that holds a gradient, is no array.
        found = found.detach().cpu().numpy() if hasattr(found, "detach") else found
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(
            f"--callable {target}: it failed on {len(pictures)} pictures from {frames[0]}: {_told(error)}"
        ) from error
    wanted = f"expected {len(pictures)} numbers in [0, 1] (nan for no answer), one for each picture"
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"--callable {target}: {wanted}, got {shown(found)}") from None
    if values.shape != (len(pictures),):
        raise UserError(f"--callable {target}: {wanted}, got shape {list(values.shape)}")
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.isnan(values) | ((values >= 0) & (values <= 1))))
    if bad.size:
        listed = ", ".join(f"{values[i]:g} for {frames[i]}" for i in bad[:3])
        raise UserError(f"--callable {target}: {wanted}, got {listed}; {OF_LOGITS}nothing was written")
    return values


def _config(args: argparse.Namespace) -> RunConfig:
    """The protocol, data and settings of the command line; its detector is a name alone.

    Raises:
        UserError: An argument that does not go with --callable, a missing --name, or a wrong setting.
    """
    if words := [f"--{word.removesuffix('_folder')}" for word in REFUSED if getattr(args, word, None)]:
        raise UserError(f"{', '.join(words)}: not with --callable, whose function is the detector; remove it")
    check_about(args)
    changes = arguments.typed_changes(args)
    if others := sorted(set(changes) - {"data", "protocol", "run", "seed"}):
        raise UserError(f"command line: --callable takes data.*, protocol.* and run.* settings, not {others[0]}")
    protocol = args.protocol or arguments.DEFAULT_PROTOCOL
    config = configuration(DetectorConfig(name=args.name, detector="callable"), protocol, changes)
    if config.run.task:
        raise UserError("run.task: not with --callable; set another --name")
    return config


def _scored(score: Score, target: str, frames, stores, config: RunConfig) -> tuple[list[float], set[str]]:
    """The function's answers for the readable frames of a list, and the paths of the unreadable ones.

    Raises:
        UserError: See `answers`; or a frame cannot be read and data.on_bad_frame is not `skip`, or none can.
    """
    from tqdm import tqdm

    from resproto_fd.training.bench import change_of

    change, found, bad = change_of(config.protocol), [], set()
    size, quiet = config.run.test_batch_size, None if config.run.progress else True
    with tqdm(total=len(frames), desc=f"testing {frames.videos[0].dataset}", disable=quiet, leave=False) as bar:
        for start in range(0, len(frames), size):
            pictures, names = [], frames.paths[start : start + size]
            for path, owner in zip(names, frames.video_index[start : start + size], strict=True):
                try:
                    picture = stores[frames.videos[owner].dataset].read(path)
                except UserError:
                    if config.data.on_bad_frame != "skip":
                        raise
                    bad.add(path)
                    continue
                pictures.append(picture if change is None else change(picture, path))
            readable = [path for path in names if path not in bad]
            if pictures:
                found += answers(score, target, pictures, readable).tolist()
            bar.update(len(names))
    if bad and not found:
        raise UserError(
            f"data set '{frames.videos[0].dataset}': expected frames that can be read, got none of {len(bad)}; "
            "copy or make them again"
        )
    if bad:
        print(f"note: {len(bad)} unreadable frames are left out", file=sys.stderr)
    return found, bad


def _of_file(file: Path) -> Any:
    # A name of its own, so that `json.py` does not take the place of a module.
    spec = spec_from_file_location(f"resproto_callable_{file.stem}", file)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and others look their module up
    spec.loader.exec_module(module)
    return module


def _told(error: BaseException) -> str:
    """An error of the user's code, and the line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {cut(str(error))} ({place.filename}, line {place.lineno})"
