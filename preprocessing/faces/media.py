"""Source videos as `resproto faces` recorded them: size, frame rate, codec, frames with several faces."""

from pathlib import Path

from resproto_fd.configs.errors import MissingFile, UnreadableFile, shown
from resproto_fd.configs.readers.json_reader import read_json_object
from resproto_fd.preprocessing.side_file import MEDIA, media_fault
from resproto_fd.preprocessing.video import Video


class Media:
    """Reads the records of `resproto faces`, if it made the frames.

    Args:
        root: The tree of frames.
    """

    def __init__(self, root: Path):
        self.places = [folder / "records" for folder in (root / ".faces", root.parent / ".faces") if folder.is_dir()]
        self._top = f"{root.resolve().name}/"

    def of(self, clip_path: str, video: Video) -> dict | None:
        """Returns what is recorded of a video: width, height, fps, codec and `several`; None without a record.

        Args:
            clip_path: The video's folder and name.
            video: Has the frames that were kept.

        Raises:
            UnreadableFile: The record is damaged.
        """
        # If the output folder of `resproto faces` is the data set folder itself, its records lack the folder's name.
        names = dict.fromkeys((clip_path, clip_path.removeprefix(self._top)))
        for path in (place / f"{name}.json" for place in self.places for name in names):
            try:
                record = read_json_object(path, "delete it", file_names=True)
            except MissingFile:
                continue
            media, several = {key: record.get(key) for key in MEDIA}, record.get("several")
            fault = media_fault(media) or ("" if isinstance(several, dict) else f"several: {shown(several)}")
            if not record.keys() >= media.keys():
                fault = "a key is missing"
            if fault:
                raise UnreadableFile(
                    f"{path}: expected a record of `resproto faces`, got a damaged one ({fault}); delete it"
                )
            kept = {str(number): number for number in video.frame_numbers()}
            return {**media, "several": sorted(kept[number] for number in several if number in kept)}
        return None
