"""FSFM: weights of pretraining from a file, the pooled features, and checkpoints of its authors."""

import pytest
import torch
from tiny import IMAGES, tiny
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector


def built(seed: int, **keywords):
    torch.manual_seed(seed)
    return create_detector("fsfm", **{**tiny("fsfm"), **keywords}).eval()


def of_pretraining() -> dict[str, torch.Tensor]:
    """The tensors of a pretraining checkpoint: an encoder with a norm of its own, a decoder, projectors."""
    state = {key: v for key, v in built(1).backbone.state_dict().items() if not key.startswith("fc_norm.")}
    others = ("norm.weight", "mask_token", "rep_decoder_blocks.0.norm1.weight", "decoder_pos_embed")
    heads = ("projector.projection_head.0.weight", "predictor.projection_head.0.weight")
    return state | {key: torch.ones(3) for key in (*others, *heads)}


@torch.no_grad()
def test_pretrained_weights_are_read_and_the_classifier_sees_the_normalised_mean_of_the_patches(tmp_path):
    state = of_pretraining()
    torch.save({"model": state, "epoch": 400}, tmp_path / "checkpoint-400.pth")
    detector = built(2, pretrained=str(tmp_path / "checkpoint-400.pth"))
    own = detector.backbone.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own if not key.startswith("fc_norm."))
    x = detector.backbone.patch_embed(IMAGES)
    x = torch.cat([own["cls_token"].expand(6, -1, -1), x], dim=1) + own["pos_embed"]
    for block in detector.backbone.blocks:
        x = block(x)
    mean = x[:, 1:].mean(dim=1)
    expected = (mean - mean.mean(dim=1, keepdim=True)) / (mean.var(dim=1, keepdim=True, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(detector.encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert expected.std(dim=0).max() > 1e-3


def test_a_file_that_lacks_a_layer_or_is_missing_is_named(tmp_path):
    state = of_pretraining()
    del state["blocks.1.norm1.weight"]
    torch.save({"model": state}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"cut\.pth.*blocks\.1\.norm1\.weight"):
        built(0, pretrained=str(tmp_path / "cut.pth"))
    with pytest.raises(UserError, match=r"pretrained: no file .*gone\.pth"):
        built(0, pretrained=str(tmp_path / "gone.pth"))


def test_without_a_file_the_user_is_told_which_one_to_set():
    with pytest.raises(UserError, match=r"fsfm: expected a file .*checkpoint-400\.pth.*model\.pretrained=FILE"):
        create_detector("fsfm")


@torch.no_grad()
def test_the_authors_detectors_load_with_their_classes_turned_round():
    torch.manual_seed(3)
    theirs, head = built(3), {"head.weight": torch.randn(2, 32), "head.bias": torch.randn(2)}
    detector = built(4)
    assert detector.load_foreign(theirs.backbone.state_dict() | head) == "checkpoint of the method's authors"
    logits = F.linear(theirs.encode(IMAGES), head["head.weight"], head["head.bias"])
    torch.testing.assert_close(detector(IMAGES).scores, logits.softmax(dim=1)[:, 0])
