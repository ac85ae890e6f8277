"""Augmentation by transforms of Albumentations, as a YAML lists them.

    augment:
      albumentations:
        - HorizontalFlip                          # a name alone: the library's defaults
        - Rotate: {limit: 10, p: 0.5}
        - OneOf:
            p: 0.5
            transforms:
              - GaussianBlur: {blur_limit: [3, 7]}
              - ImageCompression: {quality_range: [40, 100]}

They see the stored frame, RGB uint8. What comes out is resized or cropped to the input's square, as in testing.
Normalisation follows on the device, so it is not part of the list. The library is imported when a list is built.
"""

import copy
import difflib
import inspect
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.faces.alignment import move_points
from resproto_fd.trainer.augment.views import Viewing

KEY = "train.augment.albumentations"
OF_CODE = ("Lambda", "Compose", "ReplayCompose", "ToTensorV2", "ToTensor3D", "BasicTransform", "BaseCompose")
"""Names that a YAML cannot have: they take functions, or are the whole."""
OF_FILES = ("reference_images", "font_path", "read_fn")
"""Arguments that name files to open, or how."""
TRIED_SIZE = 256
"""Side of the picture on which a list is tried, in pixels: that of DeepfakeBench's frames."""


@dataclass(frozen=True)
class LibraryTransform:
    """Carries out a list of Albumentations transforms, then shows the result as in testing.

    A draw depends on the sample's seed alone: not on workers, processes or the samples before it.

    Args:
        config: The detector's input.
        steps: The list, as the YAML has it.
    """

    config: InputConfig
    steps: Sequence[str | Mapping[str, Any]]
    _built: list = field(default_factory=list, repr=False, compare=False)

    @property
    def side(self) -> int:
        """Side of the resulting square, in pixels."""
        return self.config.size

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        return self.carry(image, seed, None, None)[0]

    def carry(
        self, image: np.ndarray, seed: int, mask: np.ndarray | None, points: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Carries out one draw on a picture and on what belongs to it.

        Args:
            image: RGB uint8, [H, W, 3]; it is not changed.
            seed: The sample's seed.
            mask: uint8, [H, W]; None if there is none. The library's mask target.
            points: Landmarks (x, y) in pixels, [K, 2]; None if there are none. The library's keypoint target.

        Returns:
            (uint8 [S, S, 3], uint8 [S, S] or None, [K, 2] or None).
        """
        given = {"image": image.copy()}  # some transforms write into what they get, and the store's memory is reused
        if mask is not None:
            given["mask"] = mask
        if points is not None:
            given["keypoints"] = points
        made = self._compose(points is not None)
        made.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found = made(**given)
        image, mask = found["image"], found.get("mask")
        view, size = Viewing(self.config), self.config.size
        matrix = view.geometry(0, *image.shape[:2])
        if mask is not None:
            mask = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        if points is not None:
            points = move_points(matrix, np.asarray(found["keypoints"], dtype=np.float64)[:, :2])
        return view(image), mask, points

    def _compose(self, with_points: bool) -> Any:
        """The library's pipeline, built once in each process."""
        if not self._built:
            self._built.extend([None, None])
        if self._built[with_points] is None:
            library = _library()
            keypoints = library.KeypointParams("xy", remove_invisible=False) if with_points else None
            steps = [_step(library, step, f"{KEY}[{place}]") for place, step in enumerate(self.steps)]
            self._built[with_points] = library.Compose(steps, keypoint_params=keypoints)
        return self._built[with_points]

    def __reduce__(self):
        return LibraryTransform, (self.config, self.steps)

    def check(self) -> None:
        """Builds the list and tries it, so that nothing fails later in a worker.

        Raises:
            UserError: The library is not installed; a transform or an argument is unknown or has a wrong value; the
                list does not give pictures of bytes, or draws otherwise than from the sample's seed.
        """
        image = np.random.default_rng(0).integers(0, 256, (TRIED_SIZE, TRIED_SIZE, 3), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                compose = self._compose(False)
                certain = copy.deepcopy(compose)
                _always(certain)
                certain(image=image)  # a step that is drawn one time in a hundred fails here too
                for seed in range(3):
                    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
                    found = compose(image=image)["image"]
                    if getattr(found, "dtype", None) != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
                        kind = f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}"
                        raise UserError(
                            f"{KEY}: expected RGB pictures of bytes (uint8 [H, W, 3]) at the end, got {kind}; remove "
                            "Normalize, ToFloat and the like: normalisation follows on the device"
                        )
                    if not np.array_equal(self(image, seed), self(image, seed)):
                        raise UserError(f"{KEY}: two draws of one seed differ; remove the transform that causes it")
            except (UserError, ImportError):
                raise
            except Exception as error:
                raise UserError(f"{KEY}: cannot be carried out: {type(error).__name__}: {error}") from error


def files_named(steps: Any) -> list[str]:
    """Arguments of a list of transforms, at any depth, that name files to open."""
    if isinstance(steps, Mapping):
        own = [
            f"{key}: {value}" for key, value in steps.items() if key in OF_FILES or str(key).endswith(("path", "file"))
        ]
        return own + [found for value in steps.values() for found in files_named(value)]
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        return [found for step in steps for found in files_named(step)]
    return []


def _always(step: Any) -> None:
    """Makes a step happen in every draw, and those inside it."""
    step.p = 1.0
    for inner in getattr(step, "transforms", ()):
        _always(inner)


def _library() -> ModuleType:
    # At import it would ask PyPI for its newest version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    except ImportError as error:
        raise UserError(f"{KEY}: Albumentations is not installed ({error}); pip install 'albumentations>=2'") from error
    return albumentations


def _step(library: ModuleType, step: str | Mapping[str, Any], where: str) -> Any:
    """A transform of the library, or a composition of some."""
    name, arguments = (step, {}) if isinstance(step, str) else next(iter(step.items()))
    known = _names(library)
    if name not in known:
        near = difflib.get_close_matches(str(name).lower(), [each.lower() for each in known], n=1, cutoff=0.6)
        hint = f"; the nearest is '{next(each for each in known if each.lower() == near[0])}'" if near else ""
        raise UserError(f"{where}: Albumentations {library.__version__} has no transform '{name}'{hint}")
    cls, arguments = getattr(library, name), dict(arguments or {})
    signature = [each for each in inspect.signature(cls.__init__).parameters if each not in ("self", "strict")]
    if unknown := [each for each in arguments if each not in signature]:
        raise UserError(
            f"{where}: {name} has no argument '{unknown[0]}'{nearest(str(unknown[0]), signature)}; it has "
            f"{', '.join(signature)}"
        )
    if issubclass(cls, library.BaseCompose):
        inner = arguments.get("transforms")
        if not isinstance(inner, Sequence) or isinstance(inner, str) or not inner:
            raise UserError(f"{where}: {name} needs a list of transforms; set transforms: [...]")
        arguments["transforms"] = [
            _step(library, each, f"{where}.{name}.transforms[{place}]") for place, each in enumerate(inner)
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return cls(**arguments)
        except Exception as error:
            raise UserError(f"{where}: {name}: {_shortened(error)}") from error


def _names(library: ModuleType) -> list[str]:
    bases = (library.BasicTransform, library.BaseCompose)
    found = (name for name, each in vars(library).items() if isinstance(each, type) and issubclass(each, bases))
    return sorted(name for name in found if name not in OF_CODE)


def _shortened(error: Exception) -> str:
    """An error's text on one line, without the addresses that pydantic adds."""
    lines = [line.strip() for line in str(error).splitlines() if "further information" not in line]
    return "; ".join(line for line in lines if line)
