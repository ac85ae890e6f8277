"""The charts of a row's page, from its score tables."""

from statistics import NormalDist

from markupsafe import Markup

from resproto_fd.training.board import charts, curves
from resproto_fd.training.measures.intervals import method_auc_intervals
from resproto_fd.training.scores import ScoreTable

_PROBIT = NormalDist().inv_cdf


def curve_charts(tables: dict[str, ScoreTable]) -> list[Markup]:
    """ROC and DET curves, a line for each test set."""
    found = {name: curves.curves(table).roc for name, table in tables.items()}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return []
    roc = [
        charts.Series(name, points, [f"FPR {x:.3f}, TPR {y:.3f}" for x, y in points]) for name, points in found.items()
    ]
    det = []
    for name, points in found.items():
        inner = [(x, 1 - y) for x, y in points if 0 < x < 1 and 0 < y < 1]
        det.append(charts.Series(name, inner, [f"false alarms {x:.3f}, misses {y:.3f}" for x, y in inner]))
    rates = [(0.001, "0.1 %"), (0.01, "1 %"), (0.05, "5 %"), (0.2, "20 %"), (0.5, "50 %"), (0.9, "90 %")]

    def probit(title: str):
        return charts.Axis(title, rates, 0.001, 0.95, _PROBIT)

    fpr, tpr = charts.tenths("false positive rate"), charts.tenths("true positive rate")
    return [
        charts.line_chart("ROC", roc, fpr, tpr, diagonal=True),
        charts.line_chart("DET", det, probit("false alarms (FPR)"), probit("misses (1 − TPR)")),
    ]


def histograms(tables: dict[str, ScoreTable]) -> list[Markup]:
    """Shares of real and fake frames by score, a chart for each test set."""
    return [_histogram(name, curves.curves(table)) for name, table in tables.items()]


def _histogram(name: str, found: curves.Curves) -> Markup:
    width = 1 / curves.HISTOGRAM_BINS
    series = []
    for kind, shares in (("real", found.real), ("fake", found.fake)):
        if not any(shares):
            continue
        steps = [(edge, share) for i, share in enumerate(shares) for edge in (i * width, (i + 1) * width)]
        words = [
            f"score {i * width:.2f} to {(i + 1) * width:.2f}: {share:.3f} of the {kind} frames"
            for i, share in enumerate(shares)
            for _ in range(2)
        ]
        series.append(charts.Series(kind, steps, words))
    high = max(0.2, *(y for one in series for _, y in one.points))
    high = -(-high // 0.2) * 0.2
    axis = charts.Axis("share of frames", [(i * high / 4, f"{i * high / 4:.2f}") for i in range(5)], 0, high)
    return charts.line_chart(name, series, charts.tenths("score, P(fake)"), axis)


def method_bars(tables: dict[str, ScoreTable]) -> list[Markup]:
    """Frame AUC of each forgery method, a chart for each test set that has both classes."""
    drawn = []
    for name, table in tables.items():
        found = {method: each["frame_auc"] for method, each in method_auc_intervals(table).items()}
        bars = [
            charts.Bar(method, each.value, each.low, each.high)
            for method, each in found.items()
            if each.value is not None
        ]
        drawn.append(charts.bar_chart(f"Frame AUC by forgery method on {name}", bars, low=0.4, chance=0.5))
    return [chart for chart in drawn if chart]


def reliability(tables: dict[str, ScoreTable]) -> list[Markup]:
    """Share of fakes by mean score, a line for each test set."""
    series = []
    for name, table in tables.items():
        bins = curves.curves(table).reliability
        words = [f"mean score {x:.3f}, {y:.3f} of {n:,} frames fake" for x, y, n in bins]
        series.append(charts.Series(name, [(x, y) for x, y, _ in bins], words))
    chart = charts.line_chart(
        "Reliability",
        series,
        charts.tenths("mean score of the bin"),
        charts.tenths("share of fakes"),
        diagonal=True,
        dots=True,
    )
    return [chart] if chart else []
