"""Readers of the lists that come with the data sets: splits, and labels where the folders do not tell them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from resproto_fd.configs.errors import MissingFile, UserError, shown
from resproto_fd.configs.readers.csv_reader import read_csv, read_csv_lines
from resproto_fd.configs.readers.json_reader import parse_json
from resproto_fd.configs.readers.text import MIB, read_text
from resproto_fd.preprocessing.arrangers.description import SPLIT_WORDS, Catalogue, Clip, ListEntry

LARGEST = 256 * MIB
"""Bytes of a list. ForgeryNet's list of its training pictures has some 200 MB."""


def ffpp_lists(root: Path) -> Catalogue:
    """FaceForensics++'s train.json, val.json, test.json: pairs of original videos. A pair's two originals and the two
    fakes made of them, A_B and B_A, are of its split.

    Raises:
        UserError: A list is missing or has another form, or an original is in two of them.
    """
    folder = root / "FaceForensics++"
    entries: dict[str, ListEntry] = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.json"
        pairs = _json(path, "FaceForensics++'s list of pairs, from github.com/ondyari/FaceForensics, dataset/splits")
        if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
            raise UserError(f'{path}: expected a list of pairs, [["953", "974"], ...]')
        for first, second in pairs:
            for name in (first, second, f"{first}_{second}", f"{second}_{first}"):
                before = entries.setdefault(name, ListEntry(split))
                if before.split != split:
                    raise UserError(f"{path}: '{name}' is in {before.split}.json too; a video has one split")
    return Catalogue(entries, lambda clip: clip.name, f"{folder}/train.json, val.json, test.json")


def celeb_list(root: Path, dataset: str) -> Catalogue:
    """Celeb-DF's List_of_testing_videos.txt: lines "1 YouTube-real/00170.mp4". What it does not name is for training.

    Celeb-DF++'s lines have further folders, "0 Celeb-synthesis/FaceSwap/SimSwap/id0_id1_0000.mp4". A video is known by
    its name and the folder right above it.

    Raises:
        UserError: The list is missing or a line has another form.
    """
    path = root / dataset / "List_of_testing_videos.txt"
    entries = {}
    for number, line in enumerate(_lines(path, "Celeb-DF's list of test videos, part of its archive"), 1):
        words = line.split()
        if len(words) != 2 or "/" not in words[1]:
            raise UserError(f"{path}:{number}: expected '1 YouTube-real/00170.mp4', got {shown(line)}")
        entries["/".join(_without_suffix(words[1]).split("/")[-2:])] = ListEntry("test")
    return Catalogue(entries, lambda clip: "/".join(clip.path.split("/")[-2:]), str(path))


def dfdcp_list(root: Path) -> Catalogue:
    """DFDCP's dataset.json: {"method_A/ID/VIDEO.mp4": {"label": "fake", "set": "train", "target_id": ..}}. Videos are
    known by their first folder and name, wherever between them the tree keeps them.

    Raises:
        UserError: The list is missing or has another form, or says two things of one video.
    """
    path = root / "DFDCP" / "dataset.json"
    entries: dict[str, ListEntry] = {}
    for video, entry in _table(path, "DFDCP's own list").items():
        first, name = video.split("/")[0], _without_suffix(video.split("/")[-1])
        if not isinstance(entry, dict) or str(entry.get("set")).lower() not in SPLIT_WORDS:
            found = entry.get("set") if isinstance(entry, dict) else entry
            raise UserError(f"{path}: '{video}': expected set train, val or test, got {shown(found)}")
        if entry.get("label") not in ("real", "fake"):
            raise UserError(f"{path}: '{video}': expected label 'real' or 'fake', got {shown(entry.get('label'))}")
        fake = {"method_A": "DFDCP_FakeA", "method_B": "DFDCP_FakeB"}
        if entry["label"] == "fake" and first not in fake:
            raise UserError(f"{path}: fake '{video}' lies in neither method_A nor method_B")
        label = "DFDCP_Real" if entry["label"] == "real" else fake[first]
        roles = {"target": entry.get("target_id"), "source": entry.get("swapped_id")}
        if entry["label"] == "real":
            roles = {"identity": entry.get("target_id")}
        people = {role: str(who) for role, who in roles.items() if who not in (None, "")}
        told = ListEntry(SPLIT_WORDS[entry["set"].lower()], label, people)
        if entries.setdefault(f"{first}/{name}", told) != told:
            raise UserError(
                f"{path}: '{video}': another video {name} of {first} has other values; remove the wrong one"
            )
    return Catalogue(entries, lambda clip: f"{clip.folder.split('/')[1]}/{clip.name}", str(path))


def dfdc_lists(root: Path) -> Catalogue:
    """DFDC's train/dfdc_train_part_N/metadata.json ({"VIDEO.mp4": {"label": "FAKE", "original": ..}}), and labels.csv
    (filename,label with 1 for fake) of the folders test and, where there is one, validation.

    The parts may also lie beside train, as they are unpacked; so may Kaggle's train_sample_videos.

    Raises:
        UserError: A folder lacks its list, or a list has another form.
    """
    entries: dict[str, ListEntry] = {}
    folder = root / "DFDC"
    places = [*(folder / "train").glob("*"), *folder.glob("dfdc_train_part_*"), *folder.glob("train_sample_videos")]
    for part in sorted(place for place in places if place.is_dir()):
        path, below = part / "metadata.json", part.relative_to(folder).as_posix()
        for video, entry in _table(path, "DFDC's own list of this part").items():
            label = str(entry.get("label")) if isinstance(entry, dict) else ""
            label = {"REAL": "DFDC_Real", "FAKE": "DFDC_Fake"}.get(label)
            original = entry.get("original") if label else None
            if label is None or not isinstance(original, str | None):
                wanted = "expected label REAL or FAKE, and a file's name as original"
                raise UserError(f"{path}: {shown(video)}: {wanted}, got {shown(entry)}")
            people = {"original": f"DFDC/{below}/{_without_suffix(original)}"} if original else {}
            entries[f"{below}/{_without_suffix(video)}"] = ListEntry("train", label, people)
    for name, split in (("validation", "val"), ("test", "test")):
        if not (folder / name).is_dir():
            continue
        path = folder / name / "labels.csv"
        for video, fake in _dfdc_labels(path, name):
            entries[f"{name}/{_without_suffix(video)}"] = ListEntry(split, ("DFDC_Real", "DFDC_Fake")[fake])
    return Catalogue(entries, lambda clip: clip.path.partition("/")[2], f"{folder}: metadata.json, labels.csv")


def _dfdc_labels(path: Path, name: str) -> Iterator[tuple[str, bool]]:
    """(video, whether it is fake) of each line of a labels.csv."""
    if not path.exists():
        raise _missing(path, f"DFDC's labels of its folder {name}")
    seen: dict[str, int] = {}
    for number, cells in read_csv_lines(path):
        if cells[:2] == ["filename", "label"]:
            continue
        if len(cells) < 2 or cells[1] not in ("0", "1"):
            raise UserError(f"{path}:{number}: expected 'VIDEO.mp4,1', got {shown(','.join(cells))}")
        video, label = cells[:2]
        if (first := seen.setdefault(video, number)) != number:
            raise UserError(f"{path}:{number}: {shown(video)} stands in line {first} too; a video has one label")
        yield video, label == "1"


def deeperforensics_lists(root: Path) -> Catalogue:
    """DeeperForensics-1.0's lists/splits: names of fakes, TARGET_ACTOR.mp4; a target video, of FaceForensics++, is of
    the split of the fakes made of it.

    Raises:
        UserError: A list is missing, or a target is in two of them.
    """
    folder = root / "DeeperForensics-1.0" / "lists" / "splits"
    entries: dict[str, ListEntry] = {}
    for split in ("train", "val", "test"):
        for line in _lines(folder / f"{split}.txt", "DeeperForensics-1.0's own list"):
            fake = _without_suffix(line.split("/")[-1])
            for name in (fake, fake.partition("_")[0]):
                before = entries.setdefault(name, ListEntry(split))
                if before.split != split:
                    raise UserError(f"{folder}: '{name}' is in {before.split}.txt and {split}.txt; it has one split")
    return Catalogue(entries, lambda clip: clip.name, str(folder))


FORGERYNET = {
    1: "FaceShifter", 2: "FSGAN", 3: "DeepFakes", 4: "BlendFace", 5: "MMReplacement", 6: "DeepFakes-StarGAN-Stack",
    7: "TalkingHeadVideo", 8: "ATVG-Net", 9: "StarGAN-BlendFace-Stack", 10: "FirstOrderMotion", 11: "StyleGAN2",
    12: "MaskGAN", 13: "StarGAN2", 14: "SC-FEGAN", 15: "DiscoFaceGAN",
}  # fmt: skip
"""Its 16-way labels; 0 is real."""


def forgerynet_lists(root: Path) -> Catalogue:
    """ForgeryNet's image_list.txt of the folders Training, Validation, Test: "PATH binary triple sixteen", PATH below
    FOLDER/image.

    Raises:
        UserError: A folder lacks its list, or a line has another form.
    """
    entries = {}
    folder = root / "ForgeryNet"
    for name, split in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        if not (folder / name).is_dir():
            continue
        path = folder / name / "image_list.txt"
        for number, line in enumerate(_lines(path, "ForgeryNet's list of the pictures of this folder"), 1):
            words = line.split()
            if words[:1] == ["image_name"]:
                continue
            numbers = [int(word) for word in words[1:] if word.isascii() and word.isdigit() and len(word) < 3]
            sixteen = numbers[-1] if len(words) == 4 and len(numbers) == 3 else -1
            if sixteen not in {0, *FORGERYNET} or numbers[0] != (sixteen > 0):
                raise UserError(f"{path}:{number}: expected 'PATH binary triple sixteen', got {shown(line)}")
            label = f"ForgeryNet_{FORGERYNET[sixteen]}" if sixteen else "ForgeryNet_Real"
            _put_once(entries, f"{name}/image/{_without_suffix(words[0])}", ListEntry(split, label), f"{path}:{number}")
    return Catalogue(entries, lambda clip: clip.path.partition("/")[2], f"{folder}: image_list.txt")


FAKEAVCELEB = ("wav2lip", "faceswap", "fsgan", "faceswap-wav2lip", "fsgan-wav2lip")
"""Its ways to alter the picture; `rtvc` alters the sound alone."""


def fakeavceleb_list(root: Path) -> Catalogue:
    """FakeAVCeleb's meta_data.csv: source, target1, method, ..., path and, in a column without a name, the folder.

    A video is known by its folder below the data set's, and its name. The source is the person on screen.

    Raises:
        UserError: The list is missing or a line has another form.
    """
    top = next((name for name in ("FakeAVCeleb_v1.2", "FakeAVCeleb") if (root / name).is_dir()), "FakeAVCeleb_v1.2")
    path = root / top / "meta_data.csv"
    entries = {}
    for number, row in _rows(path, "FakeAVCeleb's own list", ("source", "target1", "method", "type", "path", "")):
        if row["type"] == "RealVideo-FakeAudio":
            continue
        real, below = row["type"] == "RealVideo-RealAudio", row[""].partition("/")[2]
        if not below.startswith(row["type"]) or not row["source"] or (row["method"] not in FAKEAVCELEB) != real:
            found = ", ".join(row[key] for key in ("method", "type", "path", ""))
            raise UserError(f"{path}:{number}: expected a method, a type, a file and its folder, got {shown(found)}")
        people = {"identity" if real else "target": row["source"]}
        if not real:
            people |= {"source": row["target1"]} if row["target1"].startswith("id") else {}
            of = below.replace(row["type"], "RealVideo-RealAudio", 1)
            people["original"] = f"{top}/{of}/{_without_suffix(row['path']).partition('_')[0]}"
        label = "FakeAVCeleb_Real" if real else f"FakeAVCeleb_{row['method']}"
        _put_once(
            entries, f"{below}/{_without_suffix(row['path'])}", ListEntry(None, label, people), f"{path}:{number}"
        )
    return Catalogue(entries, lambda clip: clip.path.partition("/")[2], str(path))


def deepspeak_lists(root: Path, dataset: str) -> Catalogue:
    """DeepSpeak's annotations-split-def.csv: the split of each actor. Real videos are called ACTOR-RECORDING, fakes of
    version 1.1 ENGINE--SOURCE-TARGET--RECORDING-RECORDING--NUMBER; those of 2.0 are in annotations-fake.csv.

    Raises:
        UserError: A list is missing or a line has another form.
    """
    folder = root / dataset
    splits: dict[str, str] = {}
    for number, row in _rows(folder / "annotations-split-def.csv", "DeepSpeak's own list", ("identity", "split")):
        if row["split"].lower() not in SPLIT_WORDS:
            where = f"{folder / 'annotations-split-def.csv'}:{number}"
            raise UserError(f"{where}: expected split train, val or test, got {shown(row['split'])}")
        who, split = row["identity"], SPLIT_WORDS[row["split"].lower()]
        if splits.setdefault(who, split) != split:
            where = f"{folder / 'annotations-split-def.csv'}:{number}"
            raise UserError(f"{where}: actor {shown(who)} is of {splits[who]} too; an actor has one split")
    entries = {f"actor {who}": ListEntry(split) for who, split in splits.items()}
    if dataset == "DeepSpeak-2.0":
        path, columns = folder / "annotations-fake.csv", ("video-file", "identity-source", "identity-target")
        for number, row in _rows(path, "DeepSpeak's own list of fakes", columns):
            people = {"target": row["identity-target"], "source": row["identity-source"]}
            entry = ListEntry(splits.get(row["identity-target"]), None, people)
            _put_once(entries, _without_suffix(row["video-file"]), entry, f"{path}:{number}")

    def key(clip: Clip) -> str:
        actor = re.fullmatch(r"(\d+)-\d+|\w+--\d+-(\d+)--.+", clip.name)
        return f"actor {actor[1] or actor[2]}" if actor else clip.name

    return Catalogue(entries, key, f"{folder}: annotations-*.csv")


IDFORGE_SOUND = ("rvc_textmismatch", "tts_textgen", "tts_textmismatch")
"""IDForge's folders of real pictures with a forged sound."""


def idforge_lists(root: Path) -> Catalogue:
    """IDForge's train.csv, val.csv, test.csv (version 1): lines "face_tts/id00/id00_00/NAME.mp4".

    Raises:
        UserError: A list is missing or a line has another form.
    """
    entries = {}
    for split in ("train", "val", "test"):
        path = root / "IDForge" / f"{split}.csv"
        what = "IDForge's list, from github.com/xyyandxyy/IDForge, IDForge_v1"
        for number, line in enumerate(_lines(path, what), 1):
            if line.count("/") != 3:
                raise UserError(f"{path}:{number}: expected 'face_tts/id00/id00_00/NAME.mp4', got {shown(line)}")
            if line.partition("/")[0] not in IDFORGE_SOUND:
                _put_once(entries, _without_suffix(line), ListEntry(split), f"{path}:{number}")
    return Catalogue(entries, lambda clip: "/".join(clip.path.split("/")[-4:]), f"{root / 'IDForge'}: its three lists")


def deepfake_eval_list(root: Path, kind: str) -> Catalogue:
    """Deepfake-Eval-2024's list of its videos or images: Filename, Ground Truth, Finetuning Set (Train or Test).

    Lines without a name, as a spreadsheet left them, and those of an unknown truth are passed over.

    Args:
        root: The root of the tree.
        kind: "video" or "image".

    Raises:
        UserError: The list is missing or a line has another form.
    """
    folder = root / "Deepfake-Eval-2024"
    places = [folder / f"{kind}-metadata-publish{end}.csv" for end in ("-with-links", "")]
    path = next((place for place in places if place.exists()), places[-1])
    truth = "Video Ground Truth" if kind == "video" else "Ground Truth"
    entries = {}
    for number, row in _rows(path, "the data set's own list", ("Filename", truth, "Finetuning Set")):
        says, split = row[truth].lower(), SPLIT_WORDS.get(row["Finetuning Set"].lower())
        if row["Filename"] in ("", "#NAME?") or says in ("", "unknown"):
            continue
        if says not in ("real", "fake") or split is None:
            found = shown(f"{row[truth]}, {row['Finetuning Set']}")
            raise UserError(f"{path}:{number}: expected Real or Fake, and Train or Test, got {found}")
        entry = ListEntry(split, f"DFEval2024_{says.title()}")
        _put_once(entries, f"{kind}-data/{_without_suffix(row['Filename'])}", entry, f"{path}:{number}")
    return Catalogue(entries, lambda clip: "/".join(clip.path.split("/")[-2:]), str(path))


def _put_once(entries: dict[str, ListEntry], key: str, entry: ListEntry, where: str) -> None:
    """Adds an entry, which may stand in the lists again if it says the same.

    Raises:
        UserError: An earlier line gives the clip another split, label or person.
    """
    before = entries.setdefault(key, entry)
    if before != entry:
        said = [[each.split, each.label, *map(" ".join, each.people.items())] for each in (before, entry)]
        found = " and ".join(" ".join(filter(None, words)) for words in said)
        raise UserError(f"{where}: {shown(key)} is listed as {found}; a clip has one entry; remove the wrong line")


def _rows(path: Path, what: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, cells by column) of each line of a CSV, without the space around cells."""
    if not path.exists():
        raise _missing(path, what)
    header, lines = read_csv(path, columns)
    for number, cells in lines:
        yield number, {column: cell.strip() for column, cell in zip(header, cells, strict=True)}


def _lines(path: Path, what: str) -> list[str]:
    return [line.strip() for line in _text(path, what).splitlines() if line.strip()]


def _table(path: Path, what: str) -> dict:
    table = _json(path, what)
    if not isinstance(table, dict):
        raise UserError(f"{path}: expected a table of videos, got {type(table).__name__}")
    return table


def _json(path: Path, what: str):
    return parse_json(_text(path, what), str(path), f"get {what}")


def _text(path: Path, what: str) -> str:
    try:
        return read_text(path, LARGEST, f"get {what}")
    except MissingFile:
        raise _missing(path, what) from None


def _missing(path: Path, what: str) -> MissingFile:
    return MissingFile(f"{path}: missing; put {what}, there: without it the official split is not known")


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and "/" not in suffix else name


def _is_pair(pair) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
