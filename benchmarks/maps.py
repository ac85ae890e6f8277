"""Do maps find the forgery? The share of each detector's map that lies inside the known mask of demo forgeries.

Chance is the mask's share of the picture; a map of random numbers, blurred like a map, has it on average. The demo data
are drawn by code: the figures say whether maps point at what was changed there, and nothing about real forgeries.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from resproto_fd.configs import loading
from resproto_fd.configs.schema import RunConfig
from resproto_fd.training.commands.figures import run_detector
from resproto_fd.training.explaining import maps, prototypes
from resproto_fd.training.packages.reading import Package
from resproto_fd.training.protocols import resolve


def figures(folder: Path, data_root: str, count: int, test_set: str) -> dict:
    """Mean mass inside the mask over evenly spaced fakes of a test set that have one, with its standard error."""
    config = loading.validated(RunConfig, loading.load_yaml(folder / "config.yaml"), str(folder))
    data = loading.data_settings([f"data.root={data_root}"], "maps")
    resolved, detector = resolve(config.protocol, data, tests_only=True), run_detector(folder, config)
    frames, store = resolved.tests[test_set], resolved.stores[test_set]
    package, rng, found = Package(folder, config, detector), np.random.default_rng(0), {}
    fakes = np.flatnonzero(frames.labels == 1)
    for index in fakes[np.linspace(0, len(fakes) - 1, min(count, len(fakes))).round().astype(int)].tolist():
        path = frames.paths[index]
        mask = package.inputs([np.repeat(store.read_mask(path)[..., None], 3, axis=2)])[0, 0].numpy() > 127
        if not mask.any():
            continue
        images = package.normaliser()(package.inputs([store.read(path)]))
        heat, how = maps.evidence_map(detector, images)
        noise = cv2.GaussianBlur(rng.random(mask.shape), (0, 0), mask.shape[0] / 16)
        kinds = {how: heat[0].numpy(), "random": noise, "chance (the mask's area)": np.ones(mask.shape)}
        if (predicted := maps.predicted_map(detector, images)) is not None:
            kinds[maps.PREDICTED] = predicted[0].numpy()
        residual = prototypes.residual_map(detector, images) if prototypes.memory_of(detector) is not None else None
        if residual is not None:
            kinds["residual of the patches"] = residual
        for name, each in kinds.items():
            found.setdefault(name, []).append(float(maps.mass_inside(each[None], mask[None])[0]))
    return {name: summary(np.array(values)) for name, values in found.items()}


def summary(shares: np.ndarray) -> dict:
    """Mean and standard error of shares, over the maps that are not empty; empty ones, NaN, are counted."""
    known = shares[~np.isnan(shares)]
    error = round(float(known.std() / len(known) ** 0.5), 3) if len(known) else None
    mean = round(float(known.mean()), 3) if len(known) else None
    return {"mean": mean, "error": error, "n": len(known), "empty": len(shares) - len(known)}


def main() -> None:
    """Prints a line for each run and map, and all as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of the demo")
    parser.add_argument("--data", default="demo_data", help="folder of the demo data (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=40, help="fakes of the test set (default: %(default)s)")
    parser.add_argument("--test-set", default="Demo-A", help="test set (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for run in args.runs:
        title = f"{run.parent.name}/{run.name}"
        found[title] = figures(run, args.data, args.frames, args.test_set)
        for name, value in found[title].items():
            words = f"{value['mean']:.3f} +- {value['error']:.3f}" if value["n"] else "none"
            print(f"{title:28}{name:36}{words}  ({value['n']} maps, and {value['empty']} empty)")
    print(json.dumps({"benchmark": "maps", "mass_inside": found}))


if __name__ == "__main__":
    main()
