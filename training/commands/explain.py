"""`resproto explain`: why a run's detector gives its scores, as a page.

For each face: maps of where the evidence for "fake" lies, and, for a detector with prototypes, the nearest ones with
the training frames that made them. `explain.html` needs no other file; `explain.jsonl` has the numbers, and
`embedding.json` the points of the embedding map, which the leaderboard shows if it lies in the run's folder.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of, write_text
from resproto_fd.training.commands.arguments import add_run, add_trust, with_trust

MOST_FACES = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("files", nargs="*", metavar="FILE", help="face crops (pictures), folders, data.* settings")
    parser.set_defaults(settings=[])  # words key=value after other options
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="N frames of each class and test set, too")
    parser.add_argument("--prototypes", type=int, default=6, metavar="N", help="nearest prototypes (default: 6)")
    parser.add_argument(
        "--embedding", choices=["tsne", "umap"], help="add a map of the frames of --frames and the prototypes by method"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the page (default: RUN/explain)")
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    folder = Path(args.run_folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no config.yaml in it; name the folder of a run")
    if args.prototypes < 1:
        raise UserError(f"--prototypes: expected at least 1, got {args.prototypes}")
    words = [word for word in args.files if word.startswith("data.") and "=" in word]
    args.files, words = [word for word in args.files if word not in words], [*words, *args.settings]
    if not args.files and args.frames < 1:
        raise UserError("name pictures of faces, or set --frames N for frames of the run's test sets")
    if args.embedding and args.frames < 1:
        raise UserError("--embedding: needs frames of the test sets; set --frames N")
    from resproto_fd.configs.schema import RunConfig
    from resproto_fd.training.commands.figures import run_detector
    from resproto_fd.training.explaining.page import as_html
    from resproto_fd.training.settings import refuse_clips

    config = loading.validated(RunConfig, loading.load_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    if words:
        loading.data_settings(words, "explain")  # refuses others
        config = loading.with_changes(config.model_dump(by_alias=True), loading.parse_overrides(words))
    config = with_trust(config, args.trust_code)
    refuse_clips(config.detector, "explain")
    detector = run_detector(folder, config)
    samples, stores = _samples(args, config)
    faces, features, notes = _explained(detector, config, folder, samples, args.prototypes)
    embedding = None
    if args.embedding:
        embedding = _embedding(detector, samples, features, args.embedding, folder / "best.pt")

    out = Path(args.out) if args.out else folder / "explain"
    title = f"{config.detector.title or config.detector.name}, {config.protocol.name}, seed {config.seed}"
    write_text(out / "explain.html", as_html(title, notes, faces, partial(_training_frame, stores), embedding))
    write_text(out / "explain.jsonl", "".join(json.dumps(face.record()) + "\n" for face in faces))
    if embedding is not None:
        write_text(out / "embedding.json", embedding.model_dump_json() + "\n")
    print(f"{out / 'explain.html'}: {len(faces)} faces")
    return 0


def _training_frame(stores: dict, dataset: str, path: str):
    """A frame that the weights name, RGB uint8; None if it is not at hand. A path that leads elsewhere is not read."""
    from resproto_fd.preprocessing.frame_paths import canonical_path

    try:
        return stores[dataset].read(canonical_path(path)) if dataset in stores else None
    except (UserError, ValueError):  # a path with NUL
        return None


class Sample(NamedTuple):
    """A face to be explained: its name, its stored picture, its method, and its forgery mask if it is known."""

    name: str
    picture: object
    method: str = ""
    mask: object = None


def _samples(args: argparse.Namespace, config) -> tuple[list[Sample], dict]:
    """The faces, and the frame stores of the run's data sets by name, as far as they are at hand."""
    files = _files(args.files)
    if len(files) > MOST_FACES:  # before they are read
        raise UserError(f"expected at most {MOST_FACES} faces, got {len(files)} files; name fewer")
    found = [Sample(str(path), picture) for path, picture in _pictures(files)]
    stores: dict = {}
    try:
        from resproto_fd.training.protocols import resolve

        resolved = resolve(config.protocol, config.data, tests_only=True)
        stores = resolved.stores
    except UserError as error:
        if args.frames:
            raise
        print(f"note: no thumbnails of training frames: {error}", file=sys.stderr)
    if args.frames:
        for frames in resolved.tests.values():
            found += _frames(frames, stores, args.frames)
    if not found:
        raise UserError("none of the files is a picture that can be read")
    if len(found) > MOST_FACES:
        raise UserError(f"expected at most {MOST_FACES} faces, got {len(found)}; name fewer")
    return found, stores


def _files(words: list[str]) -> list[Path]:
    """The files that are named, and those in folders that are named."""
    found = []
    for path in map(Path, words):
        found += sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return found


def _pictures(files: list[Path]):
    """(path, picture) of each readable file; others are named."""
    from resproto_fd.preprocessing.faces.picture_reader import UnreadableMedia, read_picture

    for file in files:
        try:
            yield file, read_picture(file)
        except (UnreadableMedia, OSError) as error:
            print(f"left out: {file}: {error}", file=sys.stderr)


def _frames(frames, stores, count: int) -> list[Sample]:
    """Evenly spaced frames of each class of a test set."""
    import numpy as np

    found = []
    for label in (0, 1):
        own = np.flatnonzero(frames.labels == label)
        for index in own[np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)].tolist():
            video, path = frames.videos[frames.video_index[index]], frames.paths[index]
            store = stores[video.dataset]
            try:
                mask = store.read_mask(path) if label else None
            except UserError:
                mask = None
            found.append(Sample(path, store.read(path), video.method, mask))
    return found


def _explained(detector, config, folder: Path, samples: list[Sample], count: int):
    """A `Face` of each sample, the features [B, D], and notes for the reader."""
    import numpy as np
    import torch

    from resproto_fd.training.explaining import maps, prototypes
    from resproto_fd.training.explaining.page import Face
    from resproto_fd.training.packages.reading import Package

    package = Package(folder, config, detector)
    memory, origins = prototypes.memory_of(detector), prototypes.origins_in(folder / "best.pt")
    faces, features, hows = [], [], []
    for sample in samples:
        seen = package.inputs([sample.picture])
        images = package.normaliser()(seen)
        with torch.no_grad():
            output = detector(images)
        heat, how = maps.evidence_map(detector, images)
        predicted = maps.predicted_map(detector, images)
        shown = {} if predicted is None else {maps.PREDICTED: predicted[0].numpy()}
        shown[how] = heat[0].numpy()
        if memory is not None and (residual := prototypes.residual_map(detector, images)) is not None:
            shown["residual of the patches"] = residual
        face = Face(sample.name, float(output.scores[0]), _as_picture(seen), shown)
        if sample.mask is not None:
            mask = package.inputs([np.repeat(sample.mask[..., None], 3, axis=2)])[0, 0].numpy() > 127
            face.area = float(mask.mean())
            shares = {name: float(maps.mass_inside(each[None], mask[None])[0]) for name, each in shown.items()}
            face.mass = {name: share for name, share in shares.items() if not math.isnan(share)}  # of an empty map
        if memory is not None:
            (face.near,) = prototypes.nearest(memory, output.features, count, origins)
        faces.append(face)
        features.append(output.features.float().numpy())
        hows.append(how)
    notes = [f"Maps: {', '.join(dict.fromkeys(hows))}. A map shows where the evidence lies, not that it is right."]
    if memory is not None and not origins:
        notes.append("The weights do not record which training frames made the prototypes; train again to have them.")
    return faces, np.concatenate(features), notes


def _as_picture(seen):
    import numpy as np

    return np.ascontiguousarray(seen[0].numpy().transpose(1, 2, 0))


def _embedding(detector, samples: list[Sample], features, kind: str, weights: Path):
    """The map of the test frames and, of a detector with prototypes, of these."""
    import numpy as np

    from resproto_fd.detectors.parts.prototype_memory import CLASSES
    from resproto_fd.training.explaining import embedding, prototypes

    groups = [sample.method or "your files" for sample in samples]
    labels, memory = [sample.name for sample in samples], prototypes.memory_of(detector)
    if memory is not None:
        for number, name in enumerate(CLASSES):
            own = memory.prototypes[number, : int(memory.count[number])].float().cpu().numpy()
            features = np.concatenate([features, own])
            groups += [f"prototype, {name}"] * len(own)
            labels += [f"{name} {slot}" for slot in range(len(own))]
    sha = sha256_of(weights) if weights.is_file() else None
    return embedding.scatter(features, groups, labels, len(groups) - len(samples), kind, sha)
