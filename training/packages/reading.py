"""Reads a package, and scores pictures or clips by it. It holds data alone: its configuration names a known detector.

In shapes, B is the number of pictures or clips, T of the frames of a clip, S the side of the detector's input.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import choose_device
from resproto_fd.training.bench import change_of
from resproto_fd.training.packages.contents import CONFIG, WEIGHTS, check
from resproto_fd.training.packages.hub import fetched
from resproto_fd.training.run import create

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass
class Package:
    """A detector with its weights, as a run left them.

    Attributes:
        folder: Where the package lies.
        config: Of the run: detector, input, protocol and seed.
        detector: In evaluation mode, on its device.
    """

    folder: Path
    config: RunConfig
    detector: Detector

    def predict(self, pictures: Iterable[np.ndarray | Sequence[np.ndarray]], batch_size: int = 64) -> np.ndarray:
        """P(fake) of face crops, float64 [B]: the scores that `resproto test` gives to the same stored frames or clips.

        Args:
            pictures: RGB uint8, [H, W, 3] each; sizes may differ. A detector of clips takes lists of T of them.
            batch_size: Pictures, or clips, of a batch.

        Raises:
            UserError: A picture has another form, or a clip has not T frames.
        """
        pictures, found, normalise = list(pictures), [], self.normaliser()
        for start in range(0, len(pictures), batch_size):
            images = self.inputs(pictures[start : start + batch_size], start)
            with torch.inference_mode():
                found.append(self.detector(normalise(images)).scores.double().cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0)

    def normaliser(self) -> Normaliser:
        """What turns `inputs` into the images of the detector."""
        recipe, given = self.config.detector.train, self.config.detector.input
        device = next(iter(self.detector.state_dict().values()), torch.zeros(0)).device
        dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
        return Normaliser(given.channel_mean(), given.channel_std(), device, dtype, recipe.channels_last)

    def inputs(self, pictures: Sequence[np.ndarray], first: int = 0) -> torch.Tensor:
        """Pictures as the detector is given them but for the normalisation, uint8 [B, 3, S, S], or [B, T, 3, S, S].

        Args:
            pictures: See `predict`.
            first: Number of the first, for messages.
        """
        length, found = self.config.detector.input.frames, []
        change, transform = change_of(self.config.protocol), plain_transform(self.config.detector.input)

        def prepared(picture: np.ndarray, name: str) -> torch.Tensor:
            if not _is_picture(picture):
                got = f"{getattr(picture, 'dtype', type(picture).__name__)} {list(getattr(picture, 'shape', []))}"
                raise UserError(f"{name}: expected RGB uint8 [H, W, 3], got {got}; convert it first")
            seen = transform(picture if change is None else change(picture, name))
            return torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))

        for number, sample in enumerate(pictures, first):
            if length == 1:
                found.append(prepared(sample, f"picture {number}"))
                continue
            if not hasattr(sample, "__len__") or len(sample) != length:
                got = f"{len(sample)} frames" if hasattr(sample, "__len__") else type(sample).__name__
                raise UserError(f"clip {number}: expected a list of {length} RGB uint8 [H, W, 3], got {got}")
            frames = [prepared(frame, f"clip {number}, frame {place}") for place, frame in enumerate(sample)]
            found.append(torch.stack(frames))
        return torch.stack(found)


def load(where: str | Path, device: str = "cpu", trusted: bool = False) -> Package:
    """Loads a package that `resproto export` made. Nothing in it is run, unless `trusted` is set.

    Args:
        where: Its folder, or the name OWNER/NAME of a repository on the Hugging Face hub.
        device: `cpu`, `cuda`, `cuda:1`, `mps` or `auto`.
        trusted: Whether code that the package's configuration names may be imported. Set it only for a package that you
            trust like a program.

    Raises:
        UserError: There is no such package, it is damaged or of a newer version, or it names code to import.
    """
    folder = Path(where)
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(str(where)):
            raise UserError(f"{where}: expected the folder of a package, or OWNER/NAME on the hub")
        folder = fetched(str(where))
    check(folder)
    config = read_config(folder)
    if trusted:
        config = config.model_copy(update={"detector": config.detector.trusting()})
    detector, _ = create(config.detector, folder / WEIGHTS)
    return Package(folder, config, detector.to(choose_device(device)).eval())


def read_config(folder: Path) -> RunConfig:
    """The configuration in a package.

    Raises:
        UserError: There is none, or it does not fit the schema.
    """
    path = folder / CONFIG
    return loading.validated(RunConfig, loading.load_yaml(path), str(path))


def _is_picture(picture) -> bool:
    is_array = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    return is_array and picture.ndim == 3 and picture.shape[2] == 3 and picture.size > 0
