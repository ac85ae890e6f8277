"""Published numbers: nothing lost, nothing shifted, nothing altered."""

import csv
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

import pytest
from published_checks import check_averages, find_published

from resproto_fd.configs.errors import UserError
from resproto_fd.training.published import (
    COLUMNS,
    COUNTS,
    FRACTIONS,
    SIZES,
    count_published,
    load_published,
    load_sources,
    published_folder,
)

COUNTED = {  # (runs, cells), by hand from the papers
    ("resproto_fd", "Table 2"): (17, 62),
    ("resproto_fd", "Table 3"): (15, 43),
    ("resproto_fd", "Table 4"): (10, 50),
    ("resproto_fd", "Table 5"): (4, 24),
    ("resproto_fd", "Table 6"): (4, 24),
    ("resproto_fd", "Table 7"): (4, 24),
    ("mfclip", "Table I"): (30, 120),
    ("mfclip", "Table II"): (30, 120),
    ("mfclip", "Table III"): (50, 400),
    ("mfclip", "Table IV"): (20, 80),
    ("mfclip", "Table V"): (11, 60),
    ("mfclip", "Table VI"): (7, 56),
    ("mfclip", "Table VII"): (6, 48),
    ("mfclip", "Table VIII"): (4, 32),
    ("mfclip", "Table IX"): (4, 32),
    ("gm_df", "Table 1"): (14, 76),
    ("gm_df", "Table 2"): (44, 80),
    ("gm_df", "Table 3"): (7, 16),
    ("gm_df", "Table 4"): (32, 64),
    ("gm_df", "Table 5"): (7, 14),
    ("gm_df", "Table 7"): (21, 42),
    ("sd2", "Table 2"): (7, 84),
    ("sd2", "Table 3"): (7, 56),
    ("sd2", "Table 4"): (14, 126),
    ("sd2", "Table 5"): (4, 4),
    ("sd2", "Table 6"): (21, 21),
    ("sd2", "Table 7"): (7, 98),
    ("sd2", "Table 8"): (7, 56),
    ("deepfakebench", "README"): (15, 270),
    ("deepfakebench", "Issue 109"): (1, 8),
    ("forensics_adapter", "README, frame level"): (9, 46),
    ("forensics_adapter", "README, video level"): (13, 27),
    ("effort", "README figure"): (13, 221),
    ("effort", "README figure, GenImage"): (13, 117),
    ("df40", "Results-5"): (3, 39),
    ("df40", "Results-8"): (11, 77),
    ("df40_restated", "Table 3"): (12, 36),
    ("df40_restated", "Table 4"): (12, 36),
    ("df40_restated", "Table 5"): (12, 108),
    ("dicome", "README figure"): (13, 208),
    ("biasconsist", "README, FaceForensics++"): (4, 20),
    ("sta", "Table 1"): (15, 98),
    ("sta", "Table 2"): (5, 45),
    ("sta", "Table 3"): (10, 26),
    ("sbi", "README, cross-dataset"): (2, 10),
    ("fatformer", "GANs dataset"): (10, 180),
    ("fatformer", "DMs dataset"): (8, 176),
}

# Typed by hand from the papers, as printed: method | train set | setting | test set | metric | number.
# An empty train set or setting: the cell is unique without it.
BY_HAND = """
resproto_fd Table 2
RECCE | | | DeepFakeDetection | auc | 81.2
FoCus | | | DFDC | auc | 72.8
DiffusionFake | | | DeepFakeDetection | auc | 90.4
RepDFD | | | DFDC | auc | 77.3
ResProto-FD | | | DFDC | auc | 79.5
ResProto-FD | | | average | auc | 84.9
resproto_fd Table 3
PCL+I2G | | | DFDC | auc | 67.5
FTCN | | | Celeb-DF-v2 | auc | 86.9
UIA-ViT | | | DeepFakeDetection | auc | 94.7
NACO | | | DFDC | auc | 76.7
ResProto-FD | | | Celeb-DF-v2 | auc | 91.5
resproto_fd Table 4
X2-DFD | | | DF40/inswap | auc | 78.4
SBI | | | DF40/simswap | auc | 56.8
ResProto-FD | | | DF40/e4s | auc | 94.8
resproto_fd Table 5
ResProto-FD | | GRP | average (DF40, 6 methods) | eer | 21.3
ResProto-FD | | VLRL | average (Celeb-DF-v2, DeepFakeDetection, DFDC) | ap | 88.6
resproto_fd Table 6
ResProto-FD | | L_RL, no GRP | average (Celeb-DF-v2, DeepFakeDetection, DFDC) | auc | 79.0
ResProto-FD | | f_res, no GRP | average (DF40, 6 methods) | eer | 21.1
resproto_fd Table 7
ResProto-FD | | gamma=0.90 | average (DF40, 6 methods) | ap | 94.7
ResProto-FD | | gamma=1.0 | average (Celeb-DF-v2, DeepFakeDetection, DFDC) | eer | 23.6
mfclip Table I
DIRE | GenFace/EFS | | GenFace/AM | auc | 76.14
MFCLIP | GenFace/AM | | GenFace/EFS | auc | 87.76
FreqNet | GenFace/AM | | GenFace/FS | auc | 76.34
ViT | GenFace/FS | | GenFace/AM | auc | 78.11
MFCLIP | GenFace/FS | | GenFace/AM | acc | 62.58
mfclip Table II
MFCLIP | GenFace/DiffFace | | GenFace/FaceSwapper | auc | 99.93
FreqNet | GenFace/FSLSD | | GenFace/FaceSwapper | auc | 72.3
DIRE | GenFace/FaceSwapper | | GenFace/DiffFace | auc | 78.89
Xception | GenFace/FaceSwapper | | GenFace/FSLSD | acc | 56.60
mfclip Table III
Xception | GenFace/DDPM | | GenFace/DiffFace | auc | 96.80
CLIP | GenFace/DDPM | | GenFace/CollDiff | auc | 60.95
FatFormer | GenFace/DDPM | | GenFace/DiffFace | acc | 78.02
MFCLIP | GenFace/DDPM | | GenFace/LatDiff | auc | 79.80
DD-VQA | GenFace/DDPM | | GenFace/Diffae | auc | 89.36
FreqNet | GenFace/LatDiff | | GenFace/Diffae | acc | 38.16
VLFFD | GenFace/LatDiff | | GenFace/DDPM | acc | 87.35
MFCLIP | GenFace/LatDiff | | GenFace/CollDiff | auc | 77.07
FreqNet | GenFace/CollDiff | | GenFace/Diffae | auc | 99.98
DD-VQA | GenFace/CollDiff | | GenFace/LatDiff | auc | 70.76
MFCLIP | GenFace/CollDiff | | GenFace/DDPM | acc | 100
CViT | GenFace/DiffFace | | GenFace/CollDiff | acc | 50.04
DD-VQA | GenFace/DiffFace | | GenFace/DDPM | auc | 99.98
MFCLIP | GenFace/DiffFace | | GenFace/CollDiff | acc | 50.57
DIRE | GenFace/Diffae | | GenFace/DiffFace | auc | 99.02
MFCLIP | GenFace/Diffae | | GenFace/CollDiff | auc | 75.80
mfclip Table IV
MFCLIP | GenFace/Diffae | | GenFace/IAFaces | auc | 90.27
ViT | GenFace/Diffae | | GenFace/LatTrans | auc | 76.10
DD-VQA | GenFace/LatTrans | | GenFace/Diffae | acc | 52.65
mfclip Table V
Guan et al. | | | Celeb-DF-v2 | auc | 95.14
CEViT | | | DFDC | auc | 75.55
VLFFD | | | DFDC | auc | 84.74
MFCLIP | | | DeeperForensics-1.0 | acc | 70.47
FoCus | | | FaceForensics++ | acc | 96.43
mfclip Table VI
MFCLIP | | NE | GenFace/LatDiff | auc | 88.60
MFCLIP | | IE + FTE + predictor | GenFace/DiffFace | acc | 95.48
mfclip Table VII
MFCLIP | | patch size 56 | GenFace/LatDiff | auc | 90.79
MFCLIP | | patch size 224 | GenFace/Diffae | acc | 65.50
mfclip Table VIII
CLIP | | with SPA | GenFace/DDPM | auc | 59.20
MFCLIP | | without SPA | | parameters_m | 93.834
MFCLIP | | with SPA | | flops_g | 358.12
mfclip Table IX
MFCLIP | | L_ce + L_kl | GenFace/LatDiff | auc | 97.26
MFCLIP | | L_ce + L_cmc | GenFace/Diffae | acc | 92.98
gm_df Table 1
ED | | | DFDCP | auc | 0.851
LSDA | | | Celeb-DF-v1 | auc | 0.867
CFM | | | DeepFakeDetection | auc | 0.915
SBI | | | DFDCP | auc | 0.799
GM-DF | | | DFDC | auc | 0.847
gm_df Table 2
LTW | | | FF-DF_c40 | auc | 75.60
M2TR | | | FF-F2F | acc | 55.71
F3Net | | | FF-DF_c40 | acc | 77.50
ForensicTransfer | | | FF-F2F_c40 | acc | 55.00
GM-DF | | | FF-F2F | auc | 87.92
gm_df Table 3
FFAA | | | DeepFakeDetection | auc | 0.920
FCG | | | Celeb-DF-v2 | auc | 0.923
CLIPping | | | DFDC | auc | 0.719
GM-DF | | | DeepFakeDetection | auc | 0.963
gm_df Table 4
RECCE | FaceForensics++ & DFF & WildDeepfake | | Celeb-DF-v2 & DFDC | auc | 78.72
MesoNet | Celeb-DF-v2 & DFF & WildDeepfake | | FaceForensics++ & DFDC | m_eer | 40.54
GM-DF | FaceForensics++ & Celeb-DF-v2 & DFF | | WildDeepfake & DFDC | m_eer | 30.13
IID | FaceForensics++ & Celeb-DF-v2 & WildDeepfake | | DFF & DFDC | auc | 72.12
gm_df Table 5
GM-DF | | baseline + Meta-MoE | WildDeepfake | auc | 77.21
GM-DF | | baseline + DA + Meta-MoE | WildDeepfake | acc | 74.39
gm_df Table 7
GM-DF | FaceForensics++ & DFF | prompt P3 | WildDeepfake | auc | 69.93
GM-DF | Celeb-DF-v2 & DFF | prompt P7 | WildDeepfake | eer | 33.15
sd2 Table 2
SPSL | | | FaceForensics++_c40 | auc | 80.40
CLIP | | | DFDCP | auc | 79.61
Effort | | | DFFD | auc | 97.74
SD2 | | | DF40/FR | auc | 94.23
SD2 | | | average | auc | 95.76
sd2 Table 3
Xception | | | DF40-Test/EFS | auc | 44.63
Effort | | | UADFV | auc | 95.47
SD2 | | | WildDeepfake | auc | 82.80
sd2 Table 4
CNNSpot | | | GenImage/GLIDE | acc | 39.80
AIDE | | | GenImage/ADM | acc | 78.54
SD2 | | | GenImage/BigGAN | acc | 79.34
sd2 Table 5
SD2 | | L_C + CLAM + L_D face | average | auc | 84.34
sd2 Table 6
CLIP-LoRA | | 100K training images | average | auc | 78.84
SD2 | | 1M training images | average | auc | 84.85
sd2 Table 7
CLIP | | | DFF | acc | 37.73
Effort | | | DeepfakeTIMIT-HQ | acc | 99.06
SD2 | | | DFFD | acc | 98.21
sd2 Table 8
SD2 | | | DFDC | acc | 73.66
SPSL | | | DF40-Test/FE | acc | 76.14
deepfakebench README
UCF | | | DFDCP | auc | 0.7594
Meso4 | | | DeeperForensics-1.0 | auc | 0.9113
Face X-ray | | | FF-F2F | auc | 0.9872
SPSL | | | Celeb-DF-v2 | auc | 0.7650
SRM | | | average (cross-domain) | auc | 0.7760
Xception | | | FaceForensics++_c40 | auc | 0.8261
UCF | | | average (within-domain) | top3_count | 6
deepfakebench Issue 109
UCF | | released weights | FaceShifter | auc | 0.6084
forensics_adapter README, frame level
Forensics Adapter | | | DFDC | auc | 0.843
ED | | | DFDCP | auc | 0.851
CFM | | | DeepFakeDetection | auc | 0.915
forensics_adapter README, video level
SeeABLE | | | DFDCP | auc | 0.863
LAA-Net | | | Celeb-DF-v2 | auc | 0.954
Forensics Adapter | | | DFDCP | auc | 0.929
effort README figure
Effort | | | FFIW | auc | 0.921
Effort | | | DF40/e4s | auc | 0.983
CDFA | | | DeeperForensics-1.0 | auc | 0.973
SBI | | | DF40/facedancer | auc | 0.594
IID | | | WildDeepfake | auc | 0.666
LSDA | | | average (cross-method) | auc | 0.835
effort README figure, GenImage
FatFormer | | | GenImage/SD v1.4 | acc | 100.0
Effort | | | GenImage/GLIDE | acc | 93.3
DRCT | | | average | acc | 89.5
df40 Results-5
Xception | | | MidJourney | auc | 0.269
CLIP-base | | | FRAll_cdf | auc | 0.926
CLIP-large | | | e4e | auc | 0.967
CLIP-large | | | CollabDiff | auc | 0.977
df40 Results-8
I3D | FRAll_ff | | FF-FS | auc | 0.374
I3D | FSAll_ff & FRAll_ff | | DeeperForensics-1.0 | auc | 0.929
CLIP-base | EFSAll_ff | | FaceShifter | auc | 0.653
CLIP-large | FSAll_ff & FRAll_ff & EFSAll_ff | | Celeb-DF-v2 | auc | 0.891
df40_restated Table 3
Xception | FSAll_ff | | EFSAll_ff | auc | 0.810
RFM | FRAll_ff | | FSAll_ff | auc | 0.892
CLIP-large | EFSAll_ff | | FRAll_ff | auc | 0.889
df40_restated Table 4
CLIP-large | FRAll_ff | | EFSAll_cdf | auc | 0.209
RECCE | EFSAll_ff | | FSAll_cdf | auc | 0.623
df40_restated Table 5
Xception | FRAll_ff | | styleclip | auc | 0.006
RFM | FSAll_ff | | heygen | auc | 0.719
CLIP-large | EFSAll_ff | | CollabDiff | auc | 0.983
dicome README figure
GenD | | | DFDC | auc | 0.871
GenD | | | Celeb-DF++ | auc | 0.859
GenD | | | DF40/blendface | auc | 0.935
RECCE | | | Celeb-DF++ | auc | 0.809
DiCoME | | | average (cross-manipulation) | auc | 0.976
biasconsist README, FaceForensics++
GenD (PE) | | | FF-NT | auc | 97.5
Forensics Adapter | | | average | auc | 96.8
sta Table 1
StA | | | DeeperForensics-1.0 | auc | 0.991
SeeABLE | | | DFDCP | auc | 0.863
CFM | | | WildDeepfake | auc | 0.823
sta Table 2
AltFreezing | | | DF40/blendface | auc | 0.951
StA | | | DF40/e4s | auc | 0.980
sta Table 3
LipForensics | | | Celeb-DF-v2 | auc | 0.824
FTCN | | | DFDC | auc | 0.740
TALL | | | average | auc | 0.838
sbi README, cross-dataset
SBI | FaceForensics++ | | DFDC | auc | 71.96
SBI | FaceForensics++_raw | | DeepFakeDetection | auc | 97.87
fatformer GANs dataset
FatFormer | | | GANs/Deepfake | acc | 93.2
UnivFD | | | GANs/StarGAN | ap | 100.0
CNNSpot | | | average | ap | 86.9
fatformer DMs dataset
FatFormer | | | DMs/Guided | acc | 76.1
LGrad | | | DMs/LDM_200 w/ CFG | ap | 99.2
UnivFD | | | average | acc | 85.4
"""


@pytest.fixture(scope="module")
def rows():
    return load_published()


@pytest.fixture(scope="module")
def sources():
    return load_sources()


def by_hand():
    place = None
    for line in BY_HAND.strip().splitlines():
        if "|" not in line:
            place = line.split(" ", 1)
        else:
            yield (*place, *(cell.strip() for cell in line.split("|")))


def as_printed(row, sources):
    """The number in the unit, and with the digits, of the source."""
    percent = row.metric in FRACTIONS and sources[row.source].tables[row.table].unit == "percent"
    return row.printed.scaleb(2) if percent else row.printed


def test_every_table_has_the_runs_and_cells_that_were_counted_by_hand(rows):
    assert count_published(rows) == COUNTED
    assert len(rows) == sum(cells for _, cells in COUNTED.values()) == 3660


def test_every_source_has_its_cells(rows):
    cells = {"resproto_fd": 227, "mfclip": 948, "gm_df": 292, "sd2": 445, "deepfakebench": 278}
    cells |= {"forensics_adapter": 73, "effort": 338, "df40": 116, "df40_restated": 180, "dicome": 208}
    cells |= {"biasconsist": 20, "sta": 169, "sbi": 10, "fatformer": 356}
    assert Counter(row.source for row in rows) == cells


def test_cells_typed_by_hand_from_the_papers_are_there(rows, sources):
    checked = Counter()
    for source, table, method, train_set, setting, test_set, metric, number in by_hand():
        found = find_published(
            rows,
            source=source,
            table=table,
            method=method,
            setting=setting,
            **({"train_set": train_set} if train_set else {}),
            test_set=test_set,
            metric=metric,
        )
        assert [str(as_printed(row, sources)) for row in found] == [number], (source, table, method, test_set, metric)
        checked[source, table] += 1
    assert set(checked) == set(COUNTED)
    assert sum(checked.values()) >= 100


def test_every_row_says_what_was_measured_on_what_and_where_it_is_printed(rows, sources):
    for row in rows:
        assert row.method and row.method_printed and row.train_set
        assert row.table in sources[row.source].tables
        assert (0 <= row.value <= 1) or row.metric in SIZES + COUNTS
        assert (row.level == "none") == (row.metric in SIZES + COUNTS)
        assert not re.search(r"[*†‡<>$\\]|\[\d", row.method_printed + row.test_set_printed)


def test_no_cell_stands_twice(rows):
    keys = Counter((row.run, row.method_printed, row.test_set, row.level, row.metric) for row in rows)
    assert keys.most_common(1)[0][1] == 1


def test_printed_averages_agree_with_their_cells_except_those_recorded(rows, sources):
    checks = check_averages(rows, sources)
    assert Counter(check.verdict for check in checks) == {"exact": 227, "rounding": 12, "differs": 13, "incomplete": 97}
    differing = {
        (check.row.source, check.row.table, check.row.method, check.row.value, round(float(check.mean), 4))
        for check in checks
        if check.verdict == "differs"
    }
    recorded = {
        (name, entry.table, entry.method, entry.printed, entry.found)
        for name, source in sources.items()
        for entry in source.discrepancies
        if entry.kind == "average"
    }
    assert differing == recorded


def test_averages_that_cannot_be_recomputed_are_those_of_tables_that_print_nothing_else(rows, sources):
    incomplete = {check.row.run[:2] for check in check_averages(rows, sources) if check.verdict == "incomplete"}
    silent = {key for key in COUNTED if "Only averages" in sources[key[0]].tables[key[1]].note}
    assert incomplete == silent


def test_top3_counts_agree_with_their_columns_except_those_recorded(rows, sources):
    readme = find_published(rows, table="README")
    averages = sources["deepfakebench"].tables["README"].averages
    best = Counter()
    for group, test_sets in averages.items():
        for test_set in test_sets:
            column = find_published(readme, test_set=test_set)
            third = sorted((row.value for row in column), reverse=True)[2]
            best.update((row.method, group) for row in column if row.value >= third)
    counts = find_published(readme, metric="top3_count")
    differing = {
        (row.method, row.test_set, row.value, float(best[row.method, row.test_set]))
        for row in counts
        if row.value != best[row.method, row.test_set]
    }
    recorded = {
        (entry.method, entry.test_set, entry.printed, entry.found)
        for entry in sources["deepfakebench"].discrepancies
        if entry.kind == "count"
    }
    assert len(counts) == 30
    assert differing == recorded


def test_discrepancies_point_to_rows_and_quote_what_those_print(rows, sources):
    for name, source in sources.items():
        for entry in source.discrepancies:
            found = find_published(
                rows,
                source=name,
                table=entry.table,
                method=entry.method,
                test_set=entry.test_set,
                metric=entry.metric,
                setting=entry.setting,
            )
            assert found, entry
            if entry.kind != "text":
                assert entry.printed in [row.value for row in found], entry


def test_one_run_that_a_paper_prints_in_several_tables_has_one_set_of_numbers(rows):
    same = {
        "Table III": "",
        "Table VI": "NE + IE + FTE + predictor + SPA",
        "Table VII": "patch size 112",
        "Table VIII": "with SPA",
        "Table IX": "L_ce + L_cmc + L_kl",
    }
    full = {
        table: {
            (row.test_set, row.metric): row.value
            for row in find_published(
                rows, source="mfclip", table=table, method="MFCLIP", train_set="GenFace/CollDiff", setting=setting
            )
            if row.metric in FRACTIONS
        }
        for table, setting in same.items()
    }
    assert {table: len(cells) for table, cells in full.items()} == dict(zip(same, (8, 8, 8, 6, 8)))
    assert all(cells.items() <= full["Table III"].items() for cells in full.values())

    across = find_published(rows, source="sd2", table="Table 3", test_set="average")
    largest = find_published(rows, source="sd2", table="Table 6", setting="3M training images")
    differing = {row.method for row in across} - {
        row.method for row in across for other in largest if (row.method, row.value) == (other.method, other.value)
    }
    assert differing == {"Xception"}


def test_numbers_cited_from_deepfakebench_round_to_its_readme(rows):
    readme = {(row.method, row.test_set): row.printed for row in find_published(rows, table="README", metric="auc")}
    compared, differing = 0, []
    for row in find_published(rows, level="frame", metric="auc", train_set="FaceForensics++"):
        cited = row.source == "gm_df" or row.note.startswith("* cited")
        if not cited or row.is_average or (row.method, row.test_set) not in readme:
            continue
        rounded = readme[row.method, row.test_set].quantize(Decimal("0.001"), ROUND_HALF_UP)
        compared += 1
        if abs(rounded - row.printed) > Decimal("0.001"):
            differing.append((row.source, row.method, row.test_set, row.value))
    assert compared == 75
    assert differing == [("gm_df", "RECCE", "DFDCP", 0.734)]


@pytest.mark.parametrize(
    ("source", "table", "other", "other_table", "methods", "cells"),
    [
        ("dicome", "README figure", "effort", "README figure", 11, 143),
        ("sta", "Table 1", "effort", "README figure", 7, 49),
        ("sta", "Table 2", "effort", "README figure", 3, 24),
        ("effort", "README figure, GenImage", "sd2", "Table 4", 7, 56),
    ],
)
def test_runs_that_two_sources_print_have_one_set_of_numbers(rows, source, table, other, other_table, methods, cells):
    first, second = (
        {
            (row.method, row.test_set): row.printed
            for row in find_published(rows, source=name, table=of)
            if not row.is_average
        }
        for name, of in ((source, table), (other, other_table))
    )
    equal = {key for key in first.keys() & second.keys() if first[key] == second[key]}
    whole = {
        method for method, _ in equal if all(key in equal for key in first.keys() & second.keys() if key[0] == method)
    }
    assert len(whole) == methods
    assert sum(method in whole for method, _ in equal) == cells


def test_rows_are_found_by_test_set_level_and_metric(rows):
    found = find_published(rows, test_set="Celeb-DF-v2", level="video", metric="auc")
    sources = {"resproto_fd", "gm_df", "forensics_adapter", "effort", "df40", "dicome", "sta", "sbi"}
    assert {row.source for row in found} == sources
    assert find_published(rows, test_set="Celeb-DF-v2", level="video", metric="auc", setting=None) != found
    best = max(find_published(found, source="gm_df"), key=lambda row: row.value)
    assert (best.method, best.value, best.table) == ("GM-DF", 0.948, "Table 3")
    assert find_published(load_published(), test_set="Celeb-DF-v2", level="video", metric="auc") == found


def test_printed_digits_are_kept(rows, sources):
    assert {str(row.printed) for row in find_published(rows, table="Table VII", setting="patch size 112")} >= {"1.00"}
    assert str(as_printed(find_published(rows, method="Guan et al.")[0], sources)) == "99.17"


def edited(tmp_path, change):
    """A copy of the folder with the lines of one CSV changed."""
    folder = tmp_path / "published"
    shutil.copytree(published_folder(), folder)
    path = folder / "gm_df.csv"
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    return folder


def replaced(old, new, line=1):
    return lambda lines: [text.replace(old, new) if at == line else text for at, text in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(",0.779,", ",77.9,"), r"gm_df.csv: line 2: column 'value': .* in \[0, 1\], got '77.9'"),
        (replaced(",0.779,", ",nan,"), "'value': .*got 'nan'"),
        (replaced(",0.779,", ",.779x,"), "expected a number"),
        (replaced(",frame,", ",clip,"), "column 'level': expected one of frame, video, image, got 'clip'"),
        (replaced(",frame,", ",none,"), "column 'level': .*got 'none'"),
        (replaced(",auc,", ",auroc,"), "column 'metric': .*got 'auroc'"),
        (replaced(",Celeb-DF-v1,", ",,"), "column 'test_set': expected a name, got ''"),
        (replaced(",Celeb-DF-v1,", ",average of all,"), "an average of Table 1 that SOURCES.yaml names"),
        (replaced(",Table 1,", ",Table 11,"), "nearest is 'Table 1'"),
        (replaced(",gm_df,", ",sd2,"), "'gm_df', the name of the file"),
        (replaced("Xception,", " Xception,"), "no space around it"),
        (replaced(",0.779,", ","), "expected 13 cells, got 12"),
        (replaced("metric", "measure", line=0), "expected the columns"),
        (lambda lines: [*lines, lines[5]], r"line 294: Xception, DeepFakeDetection auc of Table 1 stands in line 6"),
        (lambda lines: lines[:-1], r"Table 7 has \(runs, cells, doubtful cells\) \(21, 41, 0\), .* \(21, 42, 0\)"),
    ],
)
def test_a_fault_in_a_csv_is_named_with_file_line_and_column(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_published(edited(tmp_path, change))


def test_a_csv_that_no_source_describes_or_a_missing_one_is_named(tmp_path):
    folder = edited(tmp_path, lambda lines: lines)
    assert len(load_published(folder)) == 3660
    shutil.copy(folder / "sd2.csv", folder / "sd3.csv")
    with pytest.raises(UserError, match=r"sd3.csv has no entry in SOURCES.yaml; the nearest is 'sd2'"):
        load_published(folder)
    (folder / "sd3.csv").unlink()
    (folder / "sd2.csv").unlink()
    with pytest.raises(UserError, match=r"sd2.csv: cannot be read"):
        load_published(folder)


def test_an_unknown_key_in_the_sources_is_named(tmp_path):
    folder = edited(tmp_path, lambda lines: lines)
    path = folder / "SOURCES.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("authors: Lai", "autors: Lai"), encoding="utf-8")
    with pytest.raises(UserError, match="unknown key 'autors'; the nearest is 'authors'"):
        load_published(folder)


def test_reading_published_numbers_imports_nothing_heavy():
    code = "import sys, resproto_fd.training.published; print({'torch', 'sklearn', 'cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# The papers' own text, read again by another way than the CSVs were written.

SEEDS = {"resproto_fd": "000", "mfclip": "001", "gm_df": "002", "sd2": "003"}
WIDE = {("gm_df", "Table 2"), ("gm_df", "Table 4"), ("gm_df", "Table 7"), ("sd2", "Table 6")}  # runs side by side
OVERLAPPING = {  # lines of MFCLIP's Table III whose cells ran into one another in the text
    "GenFace/DDPM": ["FreqNet", "CLIP", "FatFormer", "VLFFD", "DD-VQA", "MFCLIP (Ours)"],
    "GenFace/CollDiff": ["VLFFD", "DD-VQA", "MFCLIP (Ours)"],
    "GenFace/DiffFace": ["CViT"],
    "GenFace/Diffae": ["DD-VQA", "MFCLIP (Ours)"],
}
NUMBER = re.compile(r"0\.\d+|\d\d+\.\d+|100")


def text_lines(shared, source):
    """Lines of the paper's tables that hold numbers, as cells without marks of bold and underline."""
    text = next((shared / "seeds").glob(f"{SEEDS[source]}_*.txt")).read_text(encoding="utf-8")
    lines = [[re.sub(r"</?[bu]>", "", cell).strip() for cell in line.split("\t")] for line in text.splitlines()]
    one_or_more = re.compile(rf"({NUMBER.pattern})[\s\d.]*")
    return [line for line in lines if any(one_or_more.fullmatch(cell) for cell in line)]


def printed_lines(rows, source):
    """(table, rows of one printed line), in the order of print."""

    def line(row):
        wide = (row.source, row.table) in WIDE
        return (row.table, row.method_printed) if wide else (row.table, row.method_printed, row.train_set, row.setting)

    return [(key[0], list(group)) for key, group in groupby(find_published(rows, source=source, setting=None), line)]


def letters(text):
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text).lower())


@pytest.mark.parametrize("source", SEEDS)
def test_the_papers_text_read_again_gives_the_same_cells(shared, rows, sources, source):
    in_text = text_lines(shared, source)
    broken = [line for line in in_text if any(re.search(r"\d\s+\d|yy", cell) for cell in line[1:])]
    in_text = [line for line in in_text if line not in broken]
    in_csv = printed_lines(rows, source)
    by_eye = [
        group
        for table, group in in_csv
        if table == "Table III" and group[0].method_printed in OVERLAPPING.get(group[0].train_set, ())
    ]
    in_csv = [(table, group) for table, group in in_csv if group not in by_eye]

    assert len(in_text) == len(in_csv) > 40
    for cells, (table, group) in zip(in_text, in_csv):
        if (source, table) == ("resproto_fd", "Table 7"):
            assert f"gamma={cells.pop(0)}" == group[0].setting
        numbers = [cell for cell in cells if NUMBER.fullmatch(cell)]
        assert numbers == [str(as_printed(row, sources)) for row in group], (table, cells)
        if sources[source].tables[table].content != "ablation":
            assert letters(group[0].method_printed) in letters("".join(cells[:2])), (table, cells)

    assert (len(broken), len(by_eye)) == ((10, 12) if source == "mfclip" else (0, 0))
    seen = set(re.findall(NUMBER, " ".join(cell for line in broken for cell in line)))
    assert {str(as_printed(row, sources)) for group in by_eye for row in group} <= seen


@pytest.mark.parametrize(
    ("source", "tables"),
    [
        ("resproto_fd", ["Table 2", "Table 3", "Table 4"]),
        ("gm_df", ["Table 1", "Table 3"]),
        ("sd2", ["Table 4"]),
    ],
)
def test_columns_stand_under_the_names_of_the_papers_header(shared, rows, source, tables):
    text = next((shared / "seeds").glob(f"{SEEDS[source]}_*.txt")).read_text(encoding="utf-8")
    in_text = [line.split("\t") for line in text.splitlines() if re.match(r"Methods?\t", line)]
    in_text = [[cell for cell in line[1:] if cell != "Venue"] for line in in_text]
    for table in tables:
        lines = [
            [row.test_set_printed for row in group] for name, group in printed_lines(rows, source) if name == table
        ]
        assert max(lines, key=len) in in_text


@pytest.mark.parametrize("source", ["resproto_fd", "mfclip", "gm_df"])
def test_the_dashes_of_the_papers_tables_are_the_cells_that_are_absent(shared, sources, source):
    labels = 2 if source == "gm_df" else 1  # GM-DF's second column is a venue, a dash for its own line
    flags = re.compile(r"checkmark|✓|√|×")
    lines = [line for line in text_lines(shared, source) if not any(flags.search(cell) for cell in line)]
    dashes = sum(len(re.findall(r"(?<!\S)[-_](?!\S)", " ".join(line[labels:]))) for line in lines)
    absent = sum(table.absent for table in sources[source].tables.values())
    # twice in MFCLIP's Table III two lines, of two dashes each, share one line of the text
    assert dashes == absent + (-4 if source == "mfclip" else 0)


def test_the_readme_table_of_deepfakebench_read_again_gives_the_same_cells(shared, rows):
    text = (shared / "peer" / "deepfakebench.md").read_text(encoding="utf-8")
    table = list(csv.reader(text.split("```csv\n")[1].split("```")[0].splitlines()))
    lines = {group[0].method_printed: group for name, group in printed_lines(rows, "deepfakebench") if name == "README"}
    assert [cells[1] for cells in table[1:]] == list(lines)
    for cells in table[1:]:
        group = lines[cells[1]]
        assert [(row.test_set_printed, str(row.printed)) for row in group if row.metric == "auc"] == [
            pair for pair in zip(table[0][3:], cells[3:]) if pair[0] != "Top3"
        ]
        assert [str(row.printed) for row in group if row.metric == "top3_count"] == [cells[10], cells[20]]


def test_the_columns_of_the_csvs_are_documented():
    assert len(COLUMNS) == 13
    assert [path.stem for path in sorted(published_folder().glob("*.csv"))] == sorted(load_sources())
