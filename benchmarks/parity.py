"""How far is each detector, with DeepfakeBench's checkpoint in it, from DeepfakeBench's own numbers?

    python benchmarks/parity.py ../shared/parity            # all that have a golden file, some minutes
    python benchmarks/parity.py ../shared/parity xception   # one

The folder holds made weights as a recipe (recipe.py: `fill`, `images`), the keys of each checkpoint, and what
DeepfakeBench computed from them. Every checkpoint is loaded whole; the difference is the largest
over a tensor, relative to its largest value. The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch

from resproto_fd.configs import loading
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.weights import without_pretrained


def apart(found, wanted) -> float:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def pictures(recipe, given: dict) -> torch.Tensor:
    """What a golden file was made from: pictures [n, 3, S, S], or clips [n, T, 3, S, S]."""
    frames = given.get("frames")
    images = torch.from_numpy(recipe.images(1, given["n"] * (frames or 1), given["size"]))
    return images.unflatten(0, (given["n"], frames)) if frames else images


def logits_of(scores: list[list[float]]) -> np.ndarray:
    """Logits [n, 2] from class scores; a single column is P(fake)."""
    values = np.asarray(scores, np.float64)
    return np.hstack([np.zeros_like(values), np.log(values / (1 - values))]) if values.shape[1] == 1 else values


def measured(name: str, folder: Path, recipe) -> dict[str, float | int]:
    """Differences of one detector from its golden file."""
    golden = json.loads((folder / "golden" / f"{name}_seed1.json").read_text())
    keys = json.loads((folder / "keys" / f"{name}.json").read_text())
    state = {key: torch.from_numpy(np.array(value)) for key, value in recipe.fill(keys, 1).items()}
    images = pictures(recipe, golden["input"])
    began = time.perf_counter()
    with without_pretrained():
        detector = create_detector(name, pretrained=None).load_deepfakebench(state).eval()
    second = {}
    if "idct" in golden["input"]:  # LRL's second input was made by itself
        second["frequencies"] = torch.from_numpy(recipe.images(1001, len(images), images.shape[-1]))[:, :1]
    with torch.no_grad():
        each = [detector(image[None], **{k: v[i, None] for k, v in second.items()}) for i, image in enumerate(images)]
    logits, scores = torch.cat([one.logits for one in each]), torch.cat([one.scores for one in each])
    if name in COUPLED:
        differences = {"logits": apart(logits[:1], logits_of(golden["eval_single"]["cls"])), "scores": float("nan")}
    else:
        differences = {
            "logits": apart(logits, logits_of(golden["eval"]["cls"])),
            "scores": apart(scores, np.ravel(golden["eval"]["prob"])),
        }
    return {
        "parameters": sum(p.numel() for p in detector.parameters()),
        "keys": len(keys),
        **differences,
        "seconds": time.perf_counter() - began,
    }


COUPLED = ("sia",)
"""Those whose scores in DeepfakeBench hang on the rest of the batch: the one image that it scored alone counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="detectors (default: all presets with `deepfakebench: true`)")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("recipe", options.folder / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    names = options.names or [n for n in loading.names("detectors") if loading.load("detectors", n).deepfakebench]
    report = {}
    print(f"{'detector':18}{'parameters':>13}{'keys':>6}{'logits':>12}{'P(fake)':>12}")
    for name in names:
        row = report[name] = measured(name, options.folder, recipe)
        print(f"{name:18}{row['parameters']:13,}{row['keys']:6}{row['logits']:12.1e}{row['scores']:12.1e}", flush=True)
    print(json.dumps({"benchmark": "parity", **report}))


if __name__ == "__main__":
    main()
