"""Published numbers beside measured rows: apart from them, matched by training sets, test sets and metric."""

import re

import pytest
from published_checks import find_published

from resproto_fd.configs import loading
from resproto_fd.training.board.building import build
from resproto_fd.training.board.published_beside import own_names, published_lines
from resproto_fd.training.board.published_page import _beside
from resproto_fd.training.published import load_published, load_sources
from resproto_fd.training.results import RunResult, Selection, TestResult


def made_result(folder, title, protocol, frame_auc, detector="x"):
    test = TestResult(
        frames=10, real_frames=5, videos=4, real_videos=2, frame_auc=frame_auc, frame_ap=0.8, frame_eer=0.2,
        frame_acc=0.7, frame_balanced_acc=0.7, video_auc=0.9, video_ap=0.8, video_eer=0.1, video_acc=0.8,
        video_balanced_acc=0.8,
        frames_hash="0" * 64, in_domain=False,
    )  # fmt: skip
    RunResult(
        detector=detector, title=title, protocol=protocol.name, fingerprint="12345678", seed=0,
        config={"protocol": protocol.model_dump(mode="json")}, selected_on=Selection(rule="last"),
        tests={"Celeb-DF-v2": test, "DFDC": test},
    ).save(folder / detector / "result.json")  # fmt: skip


def test_lines_are_the_printed_cells_of_the_same_sets_and_level():
    lines = published_lines(["FaceForensics++"], ["Celeb-DF-v2", "DFDC"], "frame_auc")
    own = next(line for line in lines if line.method == "ResProto-FD" and line.table == "Table 2")
    cell = find_published(
        load_published(), method="ResProto-FD", source="resproto_fd", table="Table 2", test_set="DFDC", metric="auc"
    )[0]
    assert own.values["DFDC"].value == cell.value
    assert all(set(line.values) <= {"Celeb-DF-v2", "DFDC"} for line in lines)
    assert all(row.level in ("frame", "image") for line in lines for row in line.values.values())
    video = published_lines(["FaceForensics++"], ["DFDC"], "video_auc")
    assert {row.level for line in video for row in line.values.values()} == {"video"}


@pytest.mark.parametrize(
    "name", ["genface_forgery_am", "df40_cross", "gid_df_c40", "multi_ff_cdf_dff", "genimage_sd14"]
)
def test_the_papers_protocols_find_their_tables(name):
    protocol = loading.load("protocols", name)
    metric = "frame_acc" if name == "genimage_sd14" else "frame_auc"
    lines = published_lines(protocol.train, protocol.test, metric)
    if name == "multi_ff_cdf_dff":  # Table 5 alone prints a single test set; Table 4 prints one number over two
        assert {line.table for line in lines} <= {"Table 5"}
    else:
        assert len(lines) >= 5
        assert {test_set for line in lines for test_set in line.values} <= set(protocol.test)


@pytest.mark.parametrize("name", [f"df40_{number}_{kind}" for number in (1, 2, 3) for kind in ("fs", "fr", "efs")])
def test_the_protocols_of_df40_find_four_whole_lines(name):
    protocol = loading.load("protocols", name)
    lines = published_lines(protocol.train, protocol.test, "frame_auc")
    assert [line.method for line in lines] == ["Xception", "CLIP-large", "RECCE", "RFM"]
    assert all(set(line.values) == set(protocol.test) for line in lines)


def test_other_training_sets_have_other_numbers_and_unknown_ones_none():
    assert published_lines(["Demo-A"], ["Demo-B"], "frame_auc") == []
    assert published_lines(["FaceForensics++", "DFDC"], ["Celeb-DF-v2"], "frame_auc") == []


def test_names_of_data_sets_are_known_here():
    known = set(loading.names("datasets"))
    assert {
        own_names(name)[0] for name in ("GenFace/EFS", "DF40/simswap", "GenImage/Midjourney", "GenImage/SD v1.5")
    } <= known


def test_the_page_shows_them_apart_with_the_difference_to_our_own_run(tmp_path):
    protocol = loading.load("protocols", "ffpp_c23_cross")
    cell = next(
        line.values["DFDC"]
        for line in published_lines(protocol.train, ["DFDC"], "frame_auc")
        if line.method == "Xception"
    )
    made_result(tmp_path / "runs", "Xception", protocol, cell.value + 0.05, detector="xception")
    made_result(tmp_path / "runs", "Xception", protocol, 0.99, detector="not_ours")
    made_result(tmp_path / "runs", "Xception", protocol, 0.98, detector="effort")
    made_result(tmp_path / "runs", "<script>alert(1)</script>", protocol, 0.6, detector="y")
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert "Published, not measured here: Frame AUC" in page
    assert f"{cell.printed}<small>ours +0.050</small>" in page
    assert f"ours {0.99 - cell.value:+.3f}" not in page
    assert f"ours {0.98 - cell.value:+.3f}" not in page
    assert "<script>alert" not in page
    board = page[page.index('class="board') : page.index("</table>")]
    assert "EfficientB4" not in board


def test_a_difference_to_a_table_that_does_not_state_its_level_says_so():
    sources = load_sources()
    row = next(row for row in load_published() if not sources[row.source].tables[row.table].level_stated)
    assert _beside(row, row.value + 0.05, False).small == "ours +0.050, level not stated"
    assert _beside(row, row.value + 0.05, True).small == "ours +0.050"
    assert _beside(row, None, False).small is None


def test_a_number_beside_a_table_tells_its_source_and_whether_that_states_the_level(tmp_path):
    made_result(tmp_path / "runs", "X", loading.load("protocols", "df40_1_fs"), 0.6, detector="x")
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert "df40_restated, Table 3, level not stated" in page
    assert "restated by the code of RF-MoE" in page
    assert "A source may restate numbers of other papers" in page


def test_presets_of_published_methods_have_their_titles():
    titles = {loading.load("detectors", name).title for name in loading.names("detectors")}
    printed = {row.method for row in load_published()}

    def bare(name):
        return re.sub(r"[^a-z0-9+]", "", name.lower())

    alike = {bare(method): method for method in printed}
    assert {title: alike[bare(title)] for title in titles - printed if bare(title) in alike} == {}
    assert {"ResProto-FD", "F3Net", "GramNet", "Meso4", "CNN-Aug", "Capsule", "SLADD", "PCL+I2G"} <= titles & printed
