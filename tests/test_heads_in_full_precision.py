"""What a head computes under mixed precision is what it computes without: cosines scaled by 100 need float32."""

import pytest
import torch
from tiny import IMAGES, LABELS, make

HEADS = ["sd2", "gm_df", "clip, sample pairs", "resproto_fd", "repdfd", "c2p_clip", "fatformer"]


@pytest.mark.slow
@pytest.mark.parametrize("case", HEADS)
@torch.no_grad()
def test_the_cosines_of_a_head_are_not_rounded_by_autocast(case, monkeypatch):
    detector = make(case).eval()
    features = detector.encode(IMAGES)
    towers = [part for part in (getattr(detector.clip, "text", None),) if part is not None]
    for tower in towers:  # the tower itself may run in half precision
        keep = tower.forward
        monkeypatch.setattr(tower, "forward", lambda *args, keep=keep: _plain(keep, *args))
    if case == "gm_df":
        prompts = detector.prompts()
        monkeypatch.setattr(detector, "prompts", lambda: prompts)
    if isinstance(getattr(detector, "classifier", None), torch.nn.Linear):
        keep = detector.classifier.forward
        monkeypatch.setattr(detector.classifier, "forward", lambda x: _plain(keep, x))
    expected = detector.head(features, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        found = detector.head(features, LABELS)
    assert torch.equal(found.logits, expected.logits)
    for name, loss in expected.losses.items():
        assert found.losses[name].item() == loss.item(), name


def _plain(function, *args):
    with torch.autocast("cpu", enabled=False):
        return function(*args)
