"""Batches in which each fake is followed by a real frame of the video it was made from."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import MadeStore, TinyDetector, made_config
from pydantic import ValidationError

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig, TrainConfig
from resproto_fd.preprocessing.side_file import SideRecord, write_side
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.batches import PairedBatches
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.companions import find_partners
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.encoded import EncodedFrames
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training.run import _partners

REALS = ("000", "003", "007")
FAKES = {"swap": ("000_003", "003_000"), "warp": ("000_003", "003_000", "lonely")}


def video(kind: str, name: str, frames: int = 4) -> Video:
    label = int(kind != "real")
    paths = tuple(f"FF/{kind}/{'fake' if label else 'plain'}{name}/{number:03d}.png" for number in range(frames))
    return Video("FF", "train", f"FF/{kind}/{name}", label, kind, kind, "face swap" if label else "real", paths)


VIDEOS = [video("real", name) for name in REALS] + [video(kind, name) for kind in FAKES for name in FAKES[kind]]
LISTED = FrameList.of(VIDEOS, None)


def named(index: int) -> tuple[str, str, int]:
    """(kind, name, frame number) of a frame."""
    found = LISTED.videos[LISTED.video_index[index]].id.split("/")
    return found[1], found[2], int(LISTED.numbers[index])


def batches(rank=0, world=1, accumulate=1, seed=0, size=8, frames=LISTED, sides=None, groups=None):
    partners = find_partners(frames, sides or {})
    return PairedBatches(frames.labels, partners.of_fakes(), partners.of, size, accumulate, rank, world, seed, groups)


def dealt(dealing, epoch=0, first_step=0) -> list[int]:
    dealing.start(epoch, first_step)
    return [index for batch in dealing for _, index in batch]


def test_each_fake_is_followed_by_the_frame_of_its_own_video_at_the_same_moment():
    order = dealt(batches())
    assert len(order) == 32  # as many as a shuffled epoch has
    unknown = set()
    for fake, real in zip(order[::2], order[1::2], strict=True):
        (kind, name, number), (of_real, original, moment) = named(fake), named(real)
        assert kind in FAKES and of_real == "real"
        if name == "lonely":
            unknown.add((original, moment))
        else:
            assert (original, moment) == (name[:3], number)
    assert unknown <= {(name, number) for name in REALS for number in range(4)}
    drawn = {pair for epoch in range(40) for pair in zip(*[iter(dealt(batches(), epoch))] * 2, strict=True)}
    of_lonely = {named(real)[1] for fake, real in drawn if named(fake)[1] == "lonely"}
    assert of_lonely == set(REALS)


def test_the_fakes_of_an_epoch_differ_and_come_again_when_all_have_come():
    fakes = dealt(batches())[::2]
    assert len(set(fakes)) == len(fakes) == 16  # of 20 fakes
    few = FrameList.of([*(video("real", name, 8) for name in REALS), video("swap", "000_003")], None)
    counts = np.bincount(dealt(batches(frames=few))[::2])
    assert sorted(counts[counts > 0]) == [3, 3, 3, 3]  # 12 pairs of 28 frames, and 4 fakes


def test_a_side_file_tells_of_which_video_a_fake_was_made(tmp_path):
    record = SideRecord("FF/warp/lonely", ("train",), 1, "warp", "warp", "face swap", original="FF/real/007")
    write_side(tmp_path / "FF.side.jsonl", {}, [record])
    sides = {"FF": tmp_path / "FF.side.jsonl"}
    order = dealt(batches(sides=sides)) + dealt(batches(sides=sides), 1)
    found = {(named(f)[2], named(r)[1:]) for f, r in zip(order[::2], order[1::2]) if named(f)[1] == "lonely"}
    assert found == {(number, ("007", number)) for number, _ in found} != set()


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    assert dealt(batches(), 2) == dealt(batches(), 2)
    assert dealt(batches(), 2) != dealt(batches(), 3)
    assert dealt(batches(), 2) != dealt(batches(seed=1), 2)
    assert dealt(batches(), 2)[16:] == dealt(batches(), 2, first_step=2)


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_the_ranks_are_whole_pairs_and_make_up_the_batch(world):
    whole, shares = list(batches()), [list(batches(rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert [key for share in shares for key in share[step]] == batch
        for share in shares:
            assert [LISTED.labels[index] for _, index in share[step]] == [1, 0] * (4 // world)
    parts = list(batches(accumulate=4))
    assert [key for part in parts for key in part] == [key for batch in whole for key in batch]
    with pytest.raises(UserError, match=r"not a multiple of 8 processes x 1 parts .* x 2 pictures of a pair"):
        batches(0, 8)


def test_the_data_sets_of_the_fakes_take_turns():
    groups = np.asarray([{"real": 0, "swap": 1, "warp": 2}[named(index)[0]] for index in range(len(LISTED))])
    fakes = dealt(batches(groups=groups))[::2]
    assert [named(fake)[0] for fake in fakes] == ["swap", "warp"] * 8


def read(config, frames=LISTED, broken=()):
    kind, store = ClipDataset if isinstance(frames, ClipList) else FrameDataset, {"FF": MadeStore(broken)}
    transform, partners = train_transform("flip", config.detector.input), find_partners(frames, {})
    return kind(frames, store, transform, config.seed, replace_bad=bool(broken), partners=partners)


def make_trainer(folder, config, broken=()):
    checkpoint.seed_everything(config.seed)
    world = World(0, 1, torch.device("cpu"))
    return Trainer(TinyDetector(coupled=True, dropout=0.3), read(config, broken=broken), config, world, folder)


class _Stop(Exception):
    pass


def test_a_run_on_pairs_that_was_cut_off_resumes_to_the_same_bits(tmp_path):
    config = made_config(epochs=2, sampling="paired", run={"save_every": 1})
    whole, seen = make_trainer(tmp_path / "whole", config), []
    step = whole._step
    whole._step = lambda micro: (seen.extend(micro[0]["label"].tolist()), step(micro))
    whole.fit()
    assert seen == [1, 0] * (len(seen) // 2) and len(seen) == 64

    cut = make_trainer(tmp_path / "cut", config)
    going = cut._step

    def step_and_stop(micro):
        if cut.progress.step == 6:
            raise _Stop
        going(micro)

    cut._step = step_and_stop
    with pytest.raises(_Stop):
        cut.fit()
    resumed = make_trainer(tmp_path / "cut", config)
    torch.manual_seed(99)
    resumed.fit()
    assert resumed.progress.step == whole.progress.step == 8
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[name]), name


def test_a_checkpoint_that_is_older_than_a_setting_goes_on_under_its_default_alone(tmp_path):
    config = made_config(epochs=2, run={"max_steps": 2})
    first = make_trainer(tmp_path, config)
    first.fit()
    path = sorted((tmp_path / "checkpoints").iterdir())[-1]
    saved = checkpoint.load(path)
    del saved["identity"]["config"]["detector"]["train"]["sampling"]
    checkpoint.save(path, {key: value for key, value in saved.items() if key != "format"})
    make_trainer(tmp_path, config).resume()
    other = made_config(epochs=2, sampling="paired", run={"max_steps": 2})
    with pytest.raises(UserError, match=r"sampling: saved with 'shuffled', now 'paired'"):
        make_trainer(tmp_path, other).resume()


def bench(**run):
    config = made_config(sampling="paired", run=run)
    return SimpleNamespace(resolved=SimpleNamespace(sides={}), config=config, world=World(0, 1, torch.device("cpu")))


PAIRS = [(fake, int(real)) for fake, real in enumerate(find_partners(LISTED, {}).of_fakes()) if real >= 0]
KEYS = [(3, place) for pair in (PAIRS[5], PAIRS[0], PAIRS[10]) for place in pair]


@pytest.mark.parametrize("unread", [(0,), (1,), (0, 1)])
def test_an_unreadable_frame_is_replaced_together_with_the_other_of_its_pair(unread):
    """Of the second pair the fake, the real frame, or both cannot be read; nor can the pair that would replace it."""
    config = made_config(sampling="paired")
    broken = [PAIRS[0][which] for which in unread] + [PAIRS[1][1]]
    whole, data = read(config), read(config, broken=[LISTED.paths[index] for index in broken])
    batch = data.__getitems__(KEYS)
    wanted = [*PAIRS[5], *PAIRS[2], *PAIRS[10]]
    assert batch["index"].tolist() == wanted
    assert batch["label"].tolist() == [1, 0] * 3
    assert torch.equal(batch["image"], whole.__getitems__([(3, index) for index in wanted])["image"])
    assert [bad.index for bad in batch["bad"]] == [PAIRS[0][which] for which in unread]

    known = dict.fromkeys(broken, "is broken")
    encoded = EncodedFrames(data, {False: torch.arange(len(LISTED))[:, None]}, np.zeros(len(LISTED)), known)
    batch = encoded.__getitems__(KEYS)
    assert batch["image"].features[:, 0].tolist() == batch["index"].tolist() == wanted
    assert [bad.index for bad in batch["bad"]] == [PAIRS[0][which] for which in unread]


def test_the_pairs_go_round_and_a_pair_that_nothing_can_replace_is_left_out():
    partners = find_partners(LISTED, {})
    fakes = np.flatnonzero(LISTED.labels).tolist()
    last = list(partners.pairs_after(fakes[-1], lambda fake: 7))
    assert [fake for fake, _ in last] == fakes[:-1]
    assert [fake for fake, _ in partners.pairs_after(fakes[2], lambda fake: 7)] == fakes[3:] + fakes[:2]
    assert all(real == (dict(PAIRS)[fake] if fake in dict(PAIRS) else partners.of(fake, 7)) for fake, real in last)
    reals = [LISTED.paths[index] for index in np.flatnonzero(LISTED.labels == 0)]
    batch = read(made_config(sampling="paired"), broken=reals).__getitems__(KEYS[:2])
    assert set(batch) == {"bad"}
    assert [bad.index for bad in batch["bad"]] == [KEYS[1][1]]


def test_an_unreadable_clip_is_replaced_together_with_the_other_of_its_pair():
    config = made_config(sampling="paired")
    clips = ClipList.within(LISTED, InputConfig(size=8, frames=2))
    pairs = [(fake, int(real)) for fake, real in enumerate(find_partners(clips, {}).of_fakes()) if real >= 0]
    broken = clips.stored.paths[clips.places[pairs[0][1], 1]]
    batch = read(config, clips, [broken]).__getitems__([(0, index) for pair in (pairs[3], pairs[0]) for index in pair])
    unhurt = next(pair for pair in pairs[1:] if broken not in [clips.stored.paths[i] for i in clips.places[pair[1]]])
    assert batch["index"].tolist() == [*pairs[3], *unhurt]
    assert [bad.index for bad in batch["bad"]] == [pairs[0][1]]


def test_a_run_on_pairs_with_unreadable_frames_shows_whole_pairs_and_says_so(tmp_path, capsys):
    broken = [LISTED.paths[PAIRS[0][0]], LISTED.paths[PAIRS[4][1]]]
    trainer, seen = make_trainer(tmp_path, made_config(epochs=2, sampling="paired"), broken), []
    step = trainer._step
    trainer._step = lambda micro: (seen.extend(micro[0]["index"].tolist()), step(micro))
    trainer.fit()
    for fake, real in zip(seen[::2], seen[1::2], strict=True):
        assert (LISTED.labels[fake], LISTED.labels[real]) == (1, 0)
        assert real == dict(PAIRS).get(fake, real)
    assert not {PAIRS[0][0], PAIRS[4][1]} & set(seen)
    assert set(trainer.progress.bad_frames) == {PAIRS[0][0], PAIRS[4][1]}
    assert "unreadable frame replaced by the next pair, with its partner: made store" in capsys.readouterr().out


def test_a_run_tells_for_how_many_fakes_a_real_frame_is_known(capsys):
    partners = _partners(LISTED, bench())
    for index, real in enumerate(partners.of_fakes()):
        if LISTED.labels[index] and named(index)[1] != "lonely":
            assert real == partners.of(index, index)
        else:
            assert real == -1
    assert "paired: 16 of 20 fake frames come with a frame of the real video" in capsys.readouterr().err
    clips = ClipList.within(LISTED, InputConfig(size=8, frames=2))
    fakes, known = int(clips.labels.sum()), int((_partners(clips, bench()).of_fakes() >= 0).sum())
    told = f"paired: {known} of {fakes} fake clips come with a clip of the real video they were made from, "
    assert f"{told}{fakes - known} with a random real clip" in capsys.readouterr().err


def test_pairs_of_which_none_is_known_are_refused_except_for_shuffled_labels(capsys):
    strangers = FrameList.of([video("real", "000"), video("warp", "lonely")], None)
    with pytest.raises(UserError, match=r"got none of 4 fake frames.*set train\.sampling=shuffled"):
        _partners(strangers, bench())
    shuffled = LISTED.shuffled(np.random.default_rng(0).permutation(len(LISTED)))
    partners = _partners(shuffled, bench(shuffle_labels=True))
    assert "paired: 0 of 20 fake frames" in capsys.readouterr().err
    order = dealt(PairedBatches(shuffled.labels, partners.of_fakes(), partners.of, 8, 1, 0, 1, 0))
    assert shuffled.labels[order].tolist() == [1, 0] * 16


def test_settings_that_exclude_pairs_are_refused():
    with pytest.raises(ValidationError, match="frames with sampling 'paired' come in pairs: expected an even"):
        TrainConfig(sampling="paired", batch_size=6, accumulate=2)
    with pytest.raises(ValidationError, match="samples 'warped' are paired already: set sampling: shuffled"):
        TrainConfig(sampling="paired", samples="warped")
