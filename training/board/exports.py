"""The leaderboard's tables for other programs (JSON) and for papers (LaTeX)."""

import json

from resproto_fd.training.board.leaderboard import MARKDOWN_METRICS, METRICS, Cell, Problem, Section

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "≈": r"$\approx$", "±": r"$\pm$", "–": "--", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def to_json(tables: list[Section], problems: list[Problem]) -> str:
    """Every table with all numbers in full; null is undefined or not run."""
    content = {
        "tables": [
            {
                "protocol": section.protocol,
                "fingerprint": section.fingerprint,
                "test_sets": section.test_sets,
                "in_domain": sorted(section.in_domain),
                "mean_over": section.mean_sets,
                "notes": section.notes,
                "metrics": {name: _rows(section, name) for name in METRICS},
            }
            for section in tables
        ],
        "left_out": [{"path": problem.path, "reason": problem.reason} for problem in problems],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(section: Section, metric: str) -> list[dict]:
    rows = []
    for line in section.table(metric):
        run = line.row.first
        best, tied = line.best or [False] * len(line.cells), line.tied or [False] * len(section.test_sets)
        rows.append(
            {
                "rank": line.rank,
                "detector": line.row.name,
                "title": run.title,
                "role": run.role,
                "source": run.source,
                "oracle": line.row.oracle,
                "checkpoint": line.row.selection,
                "seeds": [run.seed for run in line.row.runs],
                "parameters": run.parameters,
                "mean": line.cells[-1].mean,
                "test_sets": {
                    name: {"mean": cell.mean, "sd": cell.sd, "values": list(cell.values), "best": b, "tied": t}
                    | dict(zip(("low", "high"), line.row.limits(name, metric) or (None, None)))
                    for name, cell, b, t in zip(section.test_sets, line.cells, best, tied)
                },
            }
        )
    return rows


def to_latex(tables: list[Section]) -> str:
    r"""A table a protocol and main metric, to be \input after \usepackage{booktabs}."""
    parts = ["% Made by resproto leaderboard. Needs \\usepackage{booktabs}."]
    for section in tables:
        parts += [_table(section, metric) for metric in MARKDOWN_METRICS]
    return "\n".join(parts) + "\n"


def _table(section: Section, metric: str) -> str:
    heads = ["Detector", *section.test_sets, "Mean"]
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        r"\caption{" + latex(f"{METRICS[metric].title}, protocol {section.protocol}. Best bold")
        + (r"; $\approx$: not distinguishable from the best.}" if section.ties(metric) else ".}"),
        r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}",
        r"\toprule",
        " & ".join(map(latex, heads)) + r" \\",
        r"\midrule",
    ]  # fmt: skip
    ruled = False
    for line in section.table(metric):
        if not line.row.ranks and not ruled:
            lines.append(r"\midrule")
            ruled = True
        best, tied = (
            line.best or [False] * len(line.cells),
            [*line.tied, False] if line.tied else [False] * len(line.cells),
        )
        mark = " (oracle)" if line.row.oracle else " (control)" if line.row.control else ""
        cells = [_cell(*each) for each in zip(line.cells, best, tied)]
        lines.append(" & ".join([latex(line.row.first.title + mark), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(cell: Cell, best: bool, tied: bool) -> str:
    if cell.mean is None:
        return "--"
    text = f"{cell.mean:.3f}" + ("" if cell.sd is None else rf" {{\scriptsize $\pm$ {cell.sd:.3f}}}")
    return (rf"\textbf{{{text}}}" if best else text) + (r"\,$\approx$" if tied and not best else "")


def latex(text: str) -> str:
    r"""Text from outside, harmless in LaTeX.

    >>> latex("50% of A_1 & \\input{x}")
    '50\\% of A\\_1 \\& \\textbackslash{}input\\{x\\}'
    """
    text = " ".join(str(text).split())
    return "".join(_LATEX.get(mark, mark if mark.isprintable() and ord(mark) < 0x250 else "?") for mark in text)
