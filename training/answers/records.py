"""What an answer is: of a frame, a face, a file; and what was asked."""

from dataclasses import dataclass, field

from resproto_fd.configs.errors import UserError
from resproto_fd.training.answers.reasons import MIN_SIDE
from resproto_fd.training.calibration import RATES
from resproto_fd.training.measures.calibration import KINDS

REAL, FAKE, UNSURE, NO_FACE, UNREADABLE = "real", "fake", "unsure", "no face", "unreadable"
VERDICTS = (FAKE, UNSURE, REAL, NO_FACE, UNREADABLE)
MOST_FRAMES = 1000
LONGEST = 1_000_000
"""Seconds, some 12 days: a timer takes no number without end."""


@dataclass(frozen=True)
class Settings:
    """What is asked.

    Attributes:
        frames: Frames of a video, evenly spaced. Runs of clips take as many clips as these would fill, unless
            `input.clips` of a run gives their number.
        cropped: Every picture is an already cropped face.
        size: Side of crops in pixels; None takes that of the frames that the runs were selected on, or 256.
        min_face: Side in pixels of the smallest face to find.
        min_side: Width in pixels below which a face is too small to be judged.
        false_alarms: Share of false alarms that the threshold is stated for.
        calibration: Kind of calibrator, or "none".
        prior: Share of fakes that is expected among the files; None: as in the selection split.
        copies: Whether copies are scored again, to see whether the verdict flips.
        pictures: "separate", or "sequence": the pictures of a folder are one video.
        processes: Processes that look for faces; 0 uses none, None one for each core.
        device: Device of the runs' detectors, as run.device.
        seconds: Most seconds for finding the faces of one file.
        progress: Whether a bar is shown.
        thumbnails: Whether the answers hold small pictures.
    """

    frames: int = 32
    cropped: bool = False
    size: int | None = None
    min_face: int = 40
    min_side: int = MIN_SIDE
    false_alarms: float = 0.05
    calibration: str = "temperature"
    prior: float | None = None
    copies: bool = True
    pictures: str = "separate"
    processes: int | None = None
    device: str = "auto"
    seconds: float = 600.0
    progress: bool = False
    thumbnails: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MOST_FRAMES:
            raise UserError(f"--frames: expected 1 to {MOST_FRAMES}, got {self.frames}")
        if self.false_alarms not in RATES:
            raise UserError(f"--false-alarms: expected one of {', '.join(map(str, RATES))}, got {self.false_alarms}")
        if self.calibration not in (*KINDS, "none"):
            raise UserError(f"--calibration: expected {', '.join(KINDS)} or none, got {self.calibration!r}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise UserError(f"--prior: expected a share between 0 and 1, got {self.prior}")
        if not 0 < self.seconds <= LONGEST:
            raise UserError(f"--seconds: expected more than 0 and at most {LONGEST:,}, got {self.seconds:g}")
        if self.processes is not None and self.processes < 0:
            raise UserError(f"--processes: expected 0 or more, got {self.processes}")


@dataclass
class Clip:
    """One clip of one face.

    Attributes:
        first, last: The lowest and the highest number of its frames.
        frames: Numbers of its frames, in the order in which the detector got them; those of a short video come again.
        seconds: When each of them is shown; None if the file does not tell.
        score: P(fake).
    """

    first: int
    last: int
    frames: list[int]
    seconds: list[float] | None
    score: float = 0.0


@dataclass
class Opinion:
    """One run's view of one face.

    Attributes:
        run: The run's name.
        score: Mean P(fake) of its frames, or clips.
        probability: Calibrated; the score itself without a calibration.
        threshold: Score from which the face is called fake.
        verdict: "real" or "fake", by score and threshold alone.
        copies: Mean score of the face's copies, by kind.
        frames: Score of each frame; none of a run that scores clips.
        clips: The clips, of a run that scores clips.
        distance: Median distance to the run's reference, and the distance that 1 % of its own frames exceed.
        reasons: Why this view is unsure, by the name of the rule.
    """

    run: str
    score: float
    probability: float
    threshold: float
    verdict: str
    copies: dict[str, float] = field(default_factory=dict)
    frames: list[float] = field(default_factory=list)
    distance: float | None = None
    far: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    clips: list[Clip] = field(default_factory=list)


@dataclass
class FaceAnswer:
    """One face of one file.

    Attributes:
        number: From 1; 1 is the main face, which `resproto faces` would keep.
        frames: Numbers of its frames.
        side: Its width in pixels of the file, the median.
        turn: See `reasons.turn_of`, the median; None if not known.
        verdict: "real", "fake" or "unsure".
        probability: Of being fake: the mean over runs; None if no run could judge it.
        reasons: Why it is unsure: sentences by the name of the rule.
        opinions: One a run that judged it; a run of clips may leave out a face that is in too few frames.
        thumbnails: JPEG files, one a frame shown, with the frame's place in `frames`.
    """

    number: int
    frames: list[int]
    side: float
    turn: float | None
    verdict: str
    probability: float | None
    reasons: dict[str, str]
    opinions: list[Opinion]
    thumbnails: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class FileAnswer:
    """One file.

    Attributes:
        name: As it was given, or below the folder that was given.
        kind: "picture", "video" or "sequence".
        verdict: See `VERDICTS`. Of several faces: fake if one is fake, else unsure if one is unsure.
        probability: That of the face which decides; None without one.
        note: What a reader must know: why it is unreadable, what was changed to read it.
        frames, width, height, fps: Of the file.
        looked: Frames looked at; `without` of them show no face, `unreadable` could not be decoded.
        cropped: It is an already cropped face.
    """

    name: str
    kind: str
    verdict: str
    probability: float | None = None
    note: str = ""
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float | None = None
    looked: int = 0
    without: int = 0
    unreadable: int = 0
    cropped: bool = False
    faces: list[FaceAnswer] = field(default_factory=list)


@dataclass(frozen=True)
class RunFacts:
    """A run that judged: its name, folder, weights, what its threshold means, notes, and whether it scores clips."""

    name: str
    folder: str
    weights: str | None
    meaning: list[str]
    notes: list[str]
    of_clips: bool = False


@dataclass
class Answers:
    """All answers.

    Attributes:
        files: One a file, in the order in which they were given.
        runs: The runs that judged.
        settings: What was asked.
        others: Files in folders that are neither pictures nor videos.
        seconds: By stage, summed over processes: "read", "find", "crop", "score", "copies"; and "all", by the clock.
        counts: Frames by stage.
    """

    files: list[FileAnswer]
    runs: list[RunFacts]
    settings: Settings
    others: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def unreadable(self) -> list[FileAnswer]:
        """Files that could not be read."""
        return [file for file in self.files if file.verdict == UNREADABLE]
