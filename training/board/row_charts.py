"""The charts of a row's page, from its score tables."""

from statistics import NormalDist

from markupsafe import Markup

from resproto_fd.training.board import charts
from resproto_fd.training.board.curves import HISTOGRAM_BINS, Curves
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.measures.intervals import method_auc_intervals
from resproto_fd.training.scores import ScoreTable

_PROBIT = NormalDist().inv_cdf
MOST_BARS = 30
"""Bars of a chart; the table below it holds every method."""


def curve_charts(drawn: dict[str, Curves]) -> list[Markup]:
    """ROC and DET curves, a line for each test set."""
    found = {name: each.roc for name, each in drawn.items() if each.roc}
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


def histograms(drawn: dict[str, Curves]) -> list[Markup]:
    """Shares of real and fake frames (of clips: videos) by score, a chart for each test set."""
    return [_histogram(name, found) for name, found in drawn.items()]


def _histogram(name: str, found: Curves) -> Markup:
    width = 1 / HISTOGRAM_BINS
    series = []
    for kind, shares in (("real", found.real), ("fake", found.fake)):
        if not any(shares):
            continue
        steps = [(edge, share) for i, share in enumerate(shares) for edge in (i * width, (i + 1) * width)]
        words = [
            f"score {i * width:.2f} to {(i + 1) * width:.2f}: {share:.3f} of the {kind} {found.level}s"
            for i, share in enumerate(shares)
            for _ in range(2)
        ]
        series.append(charts.Series(kind, steps, words))
    high = max(0.2, *(y for one in series for _, y in one.points))
    high = -(-high // 0.2) * 0.2
    axis = charts.Axis(f"share of {found.level}s", [(i * high / 4, f"{i * high / 4:.2f}") for i in range(5)], 0, high)
    return charts.line_chart(name, series, charts.tenths("score, P(fake)"), axis)


def method_bars(tables: dict[str, ScoreTable], reader: ScoreReader) -> list[Markup]:
    """AUC of each forgery method, the lowest first, a chart for each test set that has both classes.

    Of many methods, the `MOST_BARS` lowest are drawn.
    """
    drawn = []
    for name, table in tables.items():
        by_method = method_auc_intervals(table, clusters=reader.of_video(table))
        level = table.levels[0]
        found = {method: each[f"{level}_auc"] for method, each in by_method.items()}
        bars = [
            charts.Bar(method, each.value, each.low, each.high)
            for method, each in found.items()
            if each.value is not None
        ]
        bars.sort(key=lambda bar: (bar.value, bar.name))
        many = "" if len(bars) <= MOST_BARS else f", the {MOST_BARS} lowest of {len(bars)}"
        title = f"{level.capitalize()} AUC by forgery method on {name}{many}"
        drawn.append(charts.bar_chart(title, bars[:MOST_BARS], low=0.4, chance=0.5))
    return [chart for chart in drawn if chart]


def reliability(drawn: dict[str, Curves]) -> list[Markup]:
    """Share of fakes by mean score, a line for each test set."""
    series = []
    for name, found in drawn.items():
        words = [f"mean score {x:.3f}, {y:.3f} of {n:,} {found.level}s fake" for x, y, n in found.reliability]
        series.append(charts.Series(name, [(x, y) for x, y, _ in found.reliability], words))
    chart = charts.line_chart(
        "Reliability",
        series,
        charts.tenths("mean score of the bin"),
        charts.tenths("share of fakes"),
        diagonal=True,
        dots=True,
    )
    return [chart] if chart else []
