"""`resproto figures`: what papers show of a detector as pictures, from a run and some tested frames.

`heatmaps.png` has a row for each frame: the picture, and where its score is most sensitive to the pixels (the gradient
of the fake logit minus the real one). A detector's own matrices (`Detector.matrices`) become CSV files.
"""

import argparse
from pathlib import Path
from typing import Any

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file, write_text
from resproto_fd.training.commands.arguments import add_run, add_trust, with_trust

BLUR = 9
"""Side in pixels over which a heatmap is averaged."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser)
    parser.add_argument(
        "--frames", type=int, default=4, metavar="N", help="frames of each class and test set (default: %(default)s)"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="the detector as it was before training, with its pretrained weights"
    )


def run(args: argparse.Namespace) -> int:
    from resproto_fd.configs.schema import RunConfig
    from resproto_fd.trainer.detector_faults import faults_of
    from resproto_fd.training.protocols import resolve
    from resproto_fd.training.settings import refuse_clips

    folder = Path(args.run_folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no config.yaml in it; name the folder of a run")
    if args.frames < 1:
        raise UserError(f"--frames: expected at least 1, got {args.frames}")
    config = loading.validated(RunConfig, loading.load_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    config = with_trust(config, args.trust_code)
    refuse_clips(config.detector, "figures")
    detector = run_detector(folder, config, args.untrained)
    out = folder / ("figures_untrained" if args.untrained else "figures")
    resolved = resolve(config.protocol, config.data, tests_only=True)
    shown = []
    for name, frames in resolved.tests.items():
        images, labels, fields = _batch(detector, config, resolved, frames, args.frames)
        with faults_of(detector, "drawing its figures"):
            matrices = dict(detector.matrices(images, labels, **fields))
            shown += list(zip(images, sensitivity(detector, images)))
        for title, matrix in matrices.items():
            _write_matrix(out / f"{name}_{title.replace(' ', '_')}.csv", matrix)
    _write_heatmaps(out / "heatmaps.png", shown, config.detector.input)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return 0


def sensitivity(detector, images) -> Any:
    """Size of the gradient of the fake logit minus the real one, averaged over `BLUR` pixels, in [0, 1], [B, H, W]."""
    import torch
    from torch.nn import functional as F

    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = detector(leaf).logits
        if not logits.requires_grad:  # a control that does not look
            return torch.zeros_like(images[:, 0])
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), leaf)
    found = F.avg_pool2d(gradient.abs().sum(dim=1, keepdim=True), BLUR, 1, BLUR // 2)[:, 0]
    return found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def run_detector(folder: Path, config, untrained: bool = False):
    """The detector of a run folder with its best weights, in evaluation mode on the CPU."""
    from resproto_fd.trainer.checkpoint import seed_everything
    from resproto_fd.training.run import create

    seed_everything(config.seed)
    best = folder / "best.pt"
    has_weights = best.is_file() and not untrained
    detector, _ = create(config.detector, best if has_weights else None)
    if not (has_weights or untrained) and any(p.requires_grad for p in detector.parameters()):
        raise UserError(f"{best}: no such file; name the folder of a run that was trained to its end")
    return detector.eval()


def _batch(detector, config, resolved, frames, count: int):
    """Images, labels and fields of evenly spaced frames of each class."""
    import numpy as np
    import torch

    from resproto_fd.trainer.augment.transforms import plain_transform
    from resproto_fd.trainer.companions import COMPANIONS
    from resproto_fd.trainer.data import FrameDataset
    from resproto_fd.trainer.fields import batch_fields
    from resproto_fd.training.bench import change_of, normaliser_of

    chosen = []
    for label in (0, 1):
        own = np.flatnonzero(frames.labels == label)
        chosen += own[np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)].tolist()
    given, asked = config.detector.input, detector.requires
    detector.requires = asked - {*COMPANIONS}
    fields = batch_fields(detector, frames, resolved.sides)
    detector.requires = asked
    data = FrameDataset(
        frames, resolved.stores, plain_transform(given), fields=fields, change=change_of(config.protocol)
    )
    batch = data.__getitems__([(0, index) for index in chosen])
    if batch["bad"]:
        raise UserError(batch["bad"][0].message)
    normalise = normaliser_of(config.detector, torch.device("cpu"))
    return normalise(batch["image"]), batch["label"], {name: batch[name] for name in fields}


def _write_matrix(path: Path, matrix) -> None:
    write_text(path, "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in matrix.tolist()))


def _write_heatmaps(path: Path, shown: list, given) -> None:
    import cv2
    import numpy as np

    mean, std = (np.asarray(values)[:, None, None] for values in (given.channel_mean(), given.channel_std()))
    rows = []
    for image, heat in shown:
        pixels = (255 * (image.numpy() * std + mean)).clip(0, 255).astype(np.uint8)
        picture = cv2.cvtColor(np.ascontiguousarray(pixels.transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
        colours = cv2.applyColorMap((255 * heat.numpy()).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
        rows.append(np.hstack([picture, cv2.addWeighted(picture, 0.5, colours, 0.5, 0)]))
    with atomic_file(path) as file:
        file.write(cv2.imencode(".png", np.vstack(rows))[1].tobytes())
