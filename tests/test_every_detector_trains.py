"""Every registered class trains through the harness on demo data: what it needs of them reaches it, and it learns."""

import copy

import pytest
import torch
from tiny import CASES, clip_frames, quick_and_slow, shallow, thin, trains

from resproto_fd.configs import loading
from resproto_fd.configs.schema import DataConfig, InputConfig, RunConfig
from resproto_fd.detectors import registry
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.blended_pairs import with_blends
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.companions import find_companions
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import protocols

DEMO_METHODS = ["demo swap", "demo warp", "demo upsample", "demo inpaint"]
WITH_NEEDS = {
    "cdfa": {"forgeries": True, "held_out": 2},
    "core": {"consistency": 1.0},
    "dfd_fcg": {"guidance": 1.5, "gathering": 1},
    "ffd": {"mask_weight": 1.0},
    "forensics_adapter": {"mask_weight": 1.0},
    "forensics_adapter_pp": {"mask_weight": 1.0},
    "lrl": {"segmentation": 1.0},
    "pcl_xception": {"consistency": 1.0},
    "prodet": {"blends": True},
    "sladd": {"mask_weight": 1.0},
    "ucf": {"methods": ["real", *DEMO_METHODS]},
    "iid": {"identities": 1000},
    "lsda": {"teachers": True, "methods": ["real", *DEMO_METHODS], "blocks": [1, 1, 1, 1], "widths": [8, 8, 8, 512]},
    "gm_df": {"domains": ["Demo-A"], "mim": 0.0},
}
"""Class -> keywords with which it asks for what its paper trains on."""
CLASSES = [case for case, (name, _) in CASES.items() if case == name and trains(case)]
RATES = dict.fromkeys(("clip_lora", "c2p_clip", "repdfd", "clip_probe", "effort", "sd2", "sd2_probe", "gm_df"), 1e-2)
RATES["uia_vit"] = 3e-3
SIZES = {"ucf": 64, "lsda": 64}
EPOCHS = 6


@pytest.fixture(scope="module")
def resolved(demo):
    protocol = loading.load("protocols", "demo_cross")
    frames = protocol.frames.model_copy(update={"train": 1, "val": 1, "test": 1})
    return protocols.resolve(protocol.model_copy(update={"frames": frames}), DataConfig(root=str(demo)))


QUICK = {"resproto_fd", "clip", "timm", "gm_df", "mfclip", "sd2", "uia_vit"}
"""Classes that train in the default tier; the others in the slow one."""


def prepared(name, resolved, folder, **train):
    """A trainer of a class that asks for what its paper trains on; with `train` in its recipe."""
    keywords = {**CASES[name][1], **WITH_NEEDS.get(name, {})}
    given = {"size": SIZES.get(name, 32), "frames": clip_frames(name)}
    frames = resolved.train
    if given["frames"] > 1:
        frames = ClipList.within(frames, InputConfig(**given))
    recipe = {
        "epochs": EPOCHS,
        "batch_size": len(frames),
        "optimizer": {"lr": RATES.get(name, 5e-4), "fused": False},
    }
    config = RunConfig.model_validate(
        {
            "detector": {
                "name": name,
                "detector": name,
                "model": keywords,
                "input": given,
                "train": recipe | train,
            },
            "protocol": {"name": "demo", "train": ["Demo-A"], "test": ["Demo-A"], "selection": {"rule": "last"}},
            "run": {"device": "cpu", "workers": 0, "progress": False, "save_checkpoints": False},
            "seed": 0,
        }
    )
    torch.manual_seed(0)
    with thin():
        detector = shallow(registry.build_detector(config.detector.trusting()))
    dataset = FrameDataset if given["frames"] == 1 else ClipDataset
    companions = find_companions(detector.requires, frames, resolved.sides, resolved.stores)
    data = dataset(
        frames,
        resolved.stores,
        train_transform("none", config.detector.input),
        0,
        fields=batch_fields(detector, frames, resolved.sides),
        companions=with_blends(companions, detector.requires, frames, resolved.sides, resolved.stores),
    )
    return Trainer(detector, data, config, World(0, 1, torch.device("cpu")), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_and_slow(CLASSES, QUICK))
def test_a_class_trains_on_the_demo_and_its_loss_falls(name, resolved, tmp_path):
    trainer = prepared(name, resolved, tmp_path)
    detector = trainer.detector
    losses, given = [], []
    step = detector.training_step

    def recorded(model, lent, images, labels, **fields):
        found = step(model, lent, images, labels, **fields)
        # the independence loss of multi_attention is divided by a rate that falls with the epochs
        losses.append(found["cross_entropy" if name == "multi_attention" else "total"].item())
        given.append(set(fields))
        return found

    detector.training_step = recorded
    before = copy.deepcopy(detector.state_dict())
    trainer.fit()
    assert min(losses[-3:]) < losses[0]
    wanted = set(detector.requires) - {"captions_facial", "captions_environmental"}
    assert all(wanted <= fields for fields in given)
    assert any(not torch.equal(value, before[key]) for key, value in detector.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_batch_in_two_parts_has_the_losses_of_a_whole_one(name, resolved, tmp_path):
    def in_parts(parts):
        return prepared(name, resolved, tmp_path / str(parts), epochs=1, batch_size=8, accumulate=parts)

    whole, names = in_parts(1), []
    if whole.detector.steps_alone:
        pytest.skip("takes a step of its own on each batch")
    for trainer in (whole, in_parts(2)):
        backward = trainer._backward

        def recorded(micro, backward=backward):
            found = backward(micro)
            names.append(set(found))
            return found

        trainer._backward = recorded
        trainer.fit()
    assert names and all(found == names[0] for found in names)
