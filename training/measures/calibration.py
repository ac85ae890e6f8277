"""Calibration of scores: a rising map from P(fake) as a detector gives it to the share of fakes among such scores.

It is fitted on one set of frames and used on others. What it gives holds for the share of fakes of the frames that it
was fitted on, see `with_prior`. In shapes, N is the number of frames (or videos).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from resproto_fd.training.measures.roc import Ranking, point_metrics

KINDS = ("temperature", "platt", "isotonic")
"""Temperature scaling (Guo et al., ICML 2017): log odds divided by one number. Platt's (1999): a line of the log odds.
Isotonic regression (Zadrozny and Elkan, KDD 2002): the best rising steps."""
EDGE = 1e-6
"""Scores nearer to 0 or 1 count as this near, so that their log odds are finite."""
TEMPERATURES = (0.02, 100.0)
FOLDS = 5


@dataclass(frozen=True)
class Calibrator:
    """A fitted map of scores.

    Attributes:
        kind: One of `KINDS`.
        parameters: By name: "temperature"; or "slope" and "intercept"; or "scores" and "shares", the corners of a line.
    """

    kind: str
    parameters: Mapping[str, list[float]]

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated P(fake) of scores, float64 [N]. Equal scores stay equal, and a higher one never gets less."""
        scores = np.asarray(scores, dtype=np.float64)
        given = {name: np.asarray(values, dtype=np.float64) for name, values in self.parameters.items()}
        if self.kind == "isotonic":
            return np.interp(scores, given["scores"], given["shares"])
        if self.kind == "temperature":
            return _expit(log_odds(scores) / given["temperature"][0])
        return _expit(given["slope"][0] * log_odds(scores) + given["intercept"][0])


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Log odds of scores, those within `EDGE` of 0 or 1 kept finite.

    >>> log_odds(np.array([0.5]))
    array([0.])
    """
    kept = np.clip(np.asarray(scores, dtype=np.float64), EDGE, 1 - EDGE)
    return np.log(kept) - np.log1p(-kept)


def fit(kind: str, scores: np.ndarray, labels: np.ndarray) -> Calibrator:
    """Fits a calibrator to scores and labels of both classes.

    Args:
        kind: One of `KINDS`.
        scores: P(fake), [N].
        labels: 0 real, 1 fake, [N].

    Raises:
        ValueError: A class is absent.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if len(np.unique(labels)) < 2:
        raise ValueError("expected real and fake scores to calibrate on, got one class")
    return {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic}[kind](scores, labels)


def _temperature(scores: np.ndarray, labels: np.ndarray) -> Calibrator:
    """The temperature of the highest likelihood."""
    from scipy.optimize import minimize_scalar

    signed = np.where(labels == 1, 1.0, -1.0) * log_odds(scores)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return Calibrator("temperature", {"temperature": [float(np.exp(found.x))]})


def _platt(scores: np.ndarray, labels: np.ndarray) -> Calibrator:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e3).fit(log_odds(scores)[:, None], labels)  # nearly free; finite where classes part
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope < 0:  # a line that falls would turn the verdicts round
        slope, intercept = 0.0, float(log_odds(np.array([labels.mean()]))[0])
    return Calibrator("platt", {"slope": [slope], "intercept": [intercept]})


def _isotonic(scores: np.ndarray, labels: np.ndarray) -> Calibrator:
    """Its steps never reach 0 or 1: of N frames, none shows that a share is less than about 1 in N."""
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(scores) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(scores, labels)
    return Calibrator(
        "isotonic", {"scores": model.X_thresholds_.tolist(), "shares": model.y_thresholds_.astype(float).tolist()}
    )


def errors(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ECE and Brier score of P(fake), as everywhere in the package, see `roc.threshold_metrics`."""
    found = point_metrics(Ranking(np.asarray(labels), np.asarray(scores)))
    return {name: found[name] for name in ("ece", "brier")}


def held_out(kind: str, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """Calibrated P(fake) of each frame by a calibrator that has not seen the frame's group, [N].

    Args:
        kind: One of `KINDS`.
        scores: P(fake), [N].
        labels: 0 real, 1 fake, [N].
        groups: Number of what belongs together, such as the frames of one person, [N].

    Returns:
        None if the groups are too few to keep both classes in every part.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = np.asarray(labels), np.asarray(groups)
    fewest = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    if fewest < 2:
        return None
    made = np.empty(len(scores))
    split = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    for known, unknown in split.split(scores, labels, groups):
        if len(np.unique(labels[known])) < 2:
            return None
        made[unknown] = fit(kind, np.asarray(scores)[known], labels[known])(np.asarray(scores)[unknown])
    return made


def with_prior(probabilities: np.ndarray, share: float, prior: float) -> np.ndarray:
    """Calibrated P(fake) for another share of fakes (Saerens et al., Neural Computation 2002, equation 2.4).

    Args:
        probabilities: Calibrated where a share of the frames was fake, [N].
        share: That share, in (0, 1).
        prior: The share that is expected now, in (0, 1).

    >>> with_prior(np.array([0.75]), 0.75, 0.5)
    array([0.5])
    """
    odds = np.exp(log_odds(probabilities) + log_odds(np.array([prior])) - log_odds(np.array([share])))
    return odds / (1 + odds)


def _expit(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(values)
