"""Real films, from the files to the board of a detector of clips."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from resproto_fd.training.cli import main
from resproto_fd.training.scores import ScoreTable

FILMS = {
    "train": {"real": ["ffpp_004", "ffpp_519"], "fake": ["ffpp_Deepfakes_519_515", "ffpp_NeuralTextures_004_982"]},
    "val": {"real": ["retalking_1"], "fake": ["dfdc_facecrop_aaqaifqrwn_0_0"]},
    "test": {"real": ["ffpp_634"], "fake": ["ffpp_FaceSwap_634_660"]},
}
PROTOCOL = """
title: Films
train: [Films]
frames: {train: null, val: null, test: null}
selection: {rule: best, dataset: Films, split: val, metric: frame_auc}
test: [Films]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_films_are_cropped_packed_trained_on_and_ranked_as_clips(shared, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    for split, classes in FILMS.items():
        for label, names in classes.items():
            folder = Path("films/Films", split, label)
            folder.mkdir(parents=True)
            for name in names:
                shutil.copy(shared / f"real/videos/{label}/{name}.mp4", folder)
    faces = [
        "faces",
        "films/Films",
        "--out",
        "crops",
        "--frames",
        "4",
        "--clips",
        "4",
        "--runs",
        "3",
        "--processes",
        "0",
    ]
    assert main([*faces, "--quiet"]) == 0
    assert main(["manifest", "folders", "--root", "crops/Films", "--out", "data/dataset_json"]) == 0
    assert main(["pack", "data/dataset_json/Films.json", "--frames", "crops", "--out", "data/lmdb/Films_lmdb"]) == 0
    Path("films.yaml").write_text(PROTOCOL)
    settings = ["data.root=data", "run.device=cpu", "run.workers=0", "run.progress=false", "train.batch_size=2"]
    for detector, given in {"stil_tiny": ["input.clips=3"], "resnet_tiny": []}.items():
        words = ["--detector", detector, "--protocol", "films.yaml", *settings, *given]
        assert main(["train", *words, "train.epochs=1"]) == 0

    table = ScoreTable.load("runs/films/stil_tiny/seed0/scores/Films.npz")
    assert table.clips.shape[1] == 4 and len(table) >= 4
    assert (table.clips[:, 1:] - table.clips[:, :-1] == 1).all()  # neighbours in the film, not in the store alone
    tested = [f"films/Films/test/{label}/{name}.mp4" for label in ("real", "fake") for name in FILMS["test"][label]]
    asked = ["--frames", "4", "--device", "cpu", "--processes", "0", "--quiet", "--out", "answers"]
    assert main(["predict", *tested, "--run", "runs/films/stil_tiny/seed0", *asked]) == 0
    rows = map(json.loads, Path("answers/answers.jsonl").read_text().splitlines())
    mains = {Path(row["name"]).stem: row["faces"][0]["opinions"][0] for row in rows}
    for video in table.videos:
        own = table.video == video
        found = mains[video.rpartition("/")[2]]["clips"]
        assert [clip["frames"] for clip in found] == table.clips[own].tolist()
        assert [clip["score"] for clip in found] == pytest.approx(table.score[own].tolist(), abs=1e-6)
    result = json.loads(Path("runs/films/stil_tiny/seed0/result.json").read_text())
    assert result["selected_on"]["metric"] == "video_auc"
    assert main(["leaderboard", "runs/films", "--out", "board"]) == 0
    with open("board/leaderboard.csv", newline="") as file:
        rows = {row["detector"]: row for row in csv.DictReader(file)}
    assert rows["stil_tiny"]["frame_auc"] == "" and rows["resnet_tiny"]["frame_auc"] != ""
    assert rows["stil_tiny"]["video_auc"] != "" and rows["resnet_tiny"]["video_auc"] != ""
