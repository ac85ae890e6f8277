"""The leaderboard's tables in LaTeX, fit for a paper: what a number is, and what it was made of, stands below them."""

from collections.abc import Sequence

from resproto_fd.training.board.cells import small_texts
from resproto_fd.training.board.table import METRICS, Cell, Line, Section

LATEX_METRICS = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "≈": r"$\approx$", "±": r"$\pm$", "–": "--", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
IN_DOMAIN = r"$^\dagger$"
_GROUP_MARKS = {
    "unstated": " (history not stated)",
    "seen": " (trained on a set of the mean)",
    "controls": " (control)",
    "oracles": " (oracle)",
}


def to_latex(tables: list[Section]) -> str:
    r"""A table a protocol and main metric, to be \input after \usepackage{booktabs}."""
    parts = ["% Made by resproto leaderboard. Needs \\usepackage{booktabs}."]
    for section in tables:
        parts += [_table(section, metric) for metric in LATEX_METRICS]
    return "\n".join(parts) + "\n"


def latex(text: str) -> str:
    r"""Text from outside, harmless in LaTeX.

    >>> latex("50% of A_1 & \\input{x}")
    '50\\% of A\\_1 \\& \\textbackslash{}input\\{x\\}'
    """
    text = " ".join(str(text).split())
    return "".join(_LATEX.get(mark, mark if mark.isprintable() and ord(mark) < 0x250 else "?") for mark in text)


def floating(caption: str, columns: str, heads: Sequence[str], lines: Sequence[str], notes: Sequence[str]) -> str:
    """A floating table with notes below it.

    Args:
        caption: LaTeX.
        columns: Their alignment, "lrr".
        heads: LaTeX of each column's title.
        lines: LaTeX of the rows and rules.
        notes: Sentences, plain text.
    """
    return "\n".join(
        [
            r"\begin{table*}[t]",
            r"\centering",
            r"\caption{" + caption + "}",
            r"\footnotesize\setlength{\tabcolsep}{4pt}",
            r"\begin{tabular}{" + columns + "}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\smallskip",
            r"\parbox{\linewidth}{\scriptsize " + " ".join(notes) + "}",
            r"\end{table*}",
            "",
        ]
    )


def _table(section: Section, metric: str) -> str:
    lines = section.table(metric)
    every = sorted(section.mean_sets) != sorted(section.test_sets)  # a second mean, over all sets
    heads = ["Detector", "Seeds"]
    heads += [latex(name) + (IN_DOMAIN if name in section.in_domain else "") for name in section.test_sets]
    heads.append(f"Mean of {len(section.mean_sets)}" + (" unseen" if every else ""))
    heads += [f"Mean of all {len(section.test_sets)}"] * every
    choices = list(dict.fromkeys(line.row.selection for line in lines))
    body, ruled = [], False
    for line in lines:
        if not line.row.ranks and not ruled:
            body.append(r"\midrule")
            ruled = True
        body += _row(section, line, [line.row.mean(section.test_sets, metric)] * every, choices)
    tested = any(any(line.tied) for line in lines)
    caption = latex(f"{METRICS[metric].title}, protocol {section.protocol}. Best bold")
    caption += r"; $\approx$: may be the best, tested against it." if tested else "."
    return floating(caption, "lr" + "r" * (len(heads) - 2), heads, body, _notes(section, lines, every, choices))


def _row(section: Section, line: Line, further: list[Cell], choices: list[str]) -> list[str]:
    """A row of the table: numbers, and 95 % intervals below them."""
    row = line.row
    clips = f" (clips of {row.first.clip_frames})" if row.by_clips else ""
    title = latex(row.first.title + clips + _GROUP_MARKS.get(row.group, ""))
    if len(choices) > 1:
        title += f"$^{{{chr(ord('a') + choices.index(row.selection) % 26)}}}$"
    blank = [False] * (len(line.cells) + len(further))
    cells = map(_cell, [*line.cells, *further], [*line.best, *blank], [*line.tied, *blank])
    lines = [" & ".join([title, str(len(row.runs)), *cells]) + r" \\"]
    small = small_texts(line, section.test_sets)
    if any(small):
        limits = [f"{{\\scriptsize [{latex(text)}]}}" if text else "" for text in small]
        lines.append(" & ".join(["", "", *limits, *[""] * len(further)]) + r" \\[2pt]")
    return lines


def _cell(cell: Cell, best: bool, tied: bool) -> str:
    if cell.mean is None:
        return "--"
    text = f"{cell.mean:.3f}" + ("" if cell.sd is None else rf" {{\scriptsize $\pm$ {cell.sd:.3f}}}")
    return (rf"\textbf{{{text}}}" if best else text) + (r"\,$\approx$" if tied and not best else "")


def _notes(section: Section, lines: list[Line], every: bool, choices: list[str]) -> list[str]:
    found = []
    if any(cell.sd is not None for line in lines for cell in line.cells):
        found.append(r"$\pm$: standard deviation over seeds.")
    if any(any(line.limits) for line in lines):
        found.append(r"[ ]: 95\,\% interval, clustered by video and source.")
    if any(line.row.answered(name) is not None for line in lines for name in section.test_sets):
        found.append("answered: share of the frames that got a score; the others count as 0.5.")
    clips = [f"{line.row.first.title}: {line.row.by_clips}" for line in lines if line.row.by_clips]
    if clips:
        found.append(latex(f"Rows of clips have no metric of frames ({'; '.join(dict.fromkeys(clips))})."))
    if section.in_domain:
        found.append(r"$\dagger$: in-domain, the protocol trains on this set.")
    if section.mean_sets:
        found.append(latex(f"Ranked by the mean of {', '.join(section.mean_sets)}."))
    if len(choices) == 1:
        found.append(latex(f"Checkpoint: {choices[0]}."))
    else:
        marked = [f"$^{{{chr(ord('a') + i % 26)}}}$ {latex(text)}" for i, text in enumerate(choices)]
        found.append(f"Checkpoints: {'; '.join(marked)}.")
    return [*found, latex(f"Fingerprint of the protocol: {section.fingerprint}.")]
