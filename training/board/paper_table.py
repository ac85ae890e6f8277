"""A table of a paper laid out again: what it printed, and below it what was measured here under the same protocol."""

import re
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.suggestions import nearest
from resproto_fd.training.board.exports import markdown
from resproto_fd.training.board.latex import floating, latex
from resproto_fd.training.board.published_beside import metric_here, own_names
from resproto_fd.training.board.table import Cell, Row, Section
from resproto_fd.training.published import PublishedRow, load_published, load_sources

DEFAULT_SOURCE = "resproto_fd"
_NONE = "–"


@dataclass(frozen=True)
class PaperTable:
    """A paper's table with measured rows.

    Attributes:
        name: "resproto_fd, Table 2".
        heads: Titles of the columns; the first two are the method and what it was trained on.
        printed: Rows as printed.
        measured: Rows measured here, in the same columns.
        notes: Sentences below the table.
    """

    name: str
    heads: list[str]
    printed: list[list[str]]
    measured: list[list[str]]
    notes: list[str]

    @property
    def stem(self) -> str:
        """Name of its files, without an ending."""
        return "paper_" + re.sub(r"[^a-z0-9]+", "_", self.name.lower())

    def markdown(self) -> str:
        """As Markdown."""
        lines = [f"# {markdown(self.name)}", ""]
        for title, rows in (("As printed", self.printed), ("Measured here", self.measured)):
            lines += [f"## {title}", "", "| " + " | ".join(map(markdown, self.heads)) + " |"]
            lines.append("|---|---|" + "---:|" * (len(self.heads) - 2))
            lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in rows] + [""]
        return "\n".join([*lines, *(f"- {markdown(note)}" for note in self.notes), ""])

    def latex(self) -> str:
        r"""As LaTeX, to be \input after \usepackage{booktabs}."""
        printed, measured = ([" & ".join(map(latex, row)) + r" \\" for row in rows]
                             for rows in (self.printed, self.measured))  # fmt: skip
        wide = rf"\multicolumn{{{len(self.heads)}}}{{l}}"
        lines = [rf"{wide}{{As printed}} \\", *printed, r"\midrule", rf"{wide}{{Measured here}} \\", *measured]
        columns = "ll" + "r" * (len(self.heads) - 2)
        return floating(latex(f"{self.name}."), columns, list(map(latex, self.heads)), lines, map(latex, self.notes))

    def write(self, folder: Path) -> list[Path]:
        """Write both files."""
        paths = []
        for ending, text in (("md", self.markdown()), ("tex", self.latex())):
            paths.append(folder / f"{self.stem}.{ending}")
            with atomic_file(paths[-1]) as file:
                file.write(text.encode())
        return paths


def find_table(name: str) -> tuple[str, str]:
    """The source and the table that a name means: "table2", or "mfclip:table 3".

    Raises:
        UserError: There is no such source, or it has no such table.

    >>> find_table("table2")
    ('resproto_fd', 'Table 2')
    """
    source, _, table = name.rpartition(":")
    source, sources = source or DEFAULT_SOURCE, load_sources()
    if source not in sources:
        raise UserError(f"paper {source!r}: expected one of {', '.join(sources)}{nearest(source, sources)}")
    known = {_plain(each): each for each in sources[source].tables}
    if _plain(table) not in known:
        shown = ", ".join(known.values())
        raise UserError(f"{source} has no table {table!r}: expected one of {shown}; set --paper {source}:NAME")
    return source, known[_plain(table)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def paper_table(name: str, sections: list[Section]) -> PaperTable:
    """Lay out a paper's table with what was measured.

    Args:
        name: See `find_table`.
        sections: The measured tables. A row is shown where its protocol trains on the table's training sets.

    Raises:
        UserError: As `find_table`; or the table holds no results that a protocol could measure.
    """
    source, table = find_table(name)
    about = load_sources()[source].tables[table]
    rows = [row for row in load_published() if (row.source, row.table) == (source, table)]
    columns = list(dict.fromkeys((row.test_set, row.level, row.metric) for row in rows))
    averages = {key: tuple(sets) for key, sets in about.averages.items()}
    if not any(metric_here(row.level, row.metric) for row in rows):
        raise UserError(f"{source}, {table}: holds no AUC, AP, EER or ACC that is measured here")
    heads = ["Method", "Trained on", *(_head(rows, column) for column in columns)]
    scale = 100 if about.unit == "percent" else 1
    measured, notes = [], []
    for train in dict.fromkeys(row.train_set for row in rows):
        wanted = {own_names(each)[0] for each in train.split(" & ")}
        for section in sections:
            if set(section.train) != wanted:
                continue
            found = [_measured(section, row, train, columns, averages, scale) for row in section.rows if row.ranks]
            found = [each for each in found if any(text != _NONE for text in each[2:])]
            measured += found
            if found:
                notes.append(f"Measured: protocol {section.protocol}, fingerprint {section.fingerprint}.")
    if not measured:
        notes.append("Nothing is measured yet under a protocol that trains on these sets.")
    notes.append("± is the standard deviation over seeds." if any("±" in t for row in measured for t in row) else "")
    notes.append("" if about.level_stated else "The source does not state whether frames or videos are counted.")
    notes.append("Published numbers are of other frames, and their checkpoints were chosen in ways that are not known.")
    notes += [f"{each.method}, {each.test_set}: {each.note}" for each in load_sources()[source].discrepancies
              if each.table == table]  # fmt: skip
    return PaperTable(f"{source}, {table}", heads, _printed(rows, columns, scale), measured, [n for n in notes if n])


def _head(rows: list[PublishedRow], column: tuple[str, str, str]) -> str:
    first = next(row for row in rows if (row.test_set, row.level, row.metric) == column)
    level = "" if first.level == "none" else f"{first.level} "
    return f"{first.test_set_printed or first.test_set} {level}{first.metric.upper()}".strip()


def _printed(rows: list[PublishedRow], columns: list[tuple], scale: int) -> list[list[str]]:
    lines: dict[tuple, dict[tuple, PublishedRow]] = {}
    for row in rows:
        lines.setdefault((row.method, row.train_set, row.setting), {})[row.test_set, row.level, row.metric] = row
    return [
        [" ".join(filter(None, (method, setting))), train, *(_digits(found.get(column), scale) for column in columns)]
        for (method, train, setting), found in lines.items()
    ]


def _digits(row: PublishedRow | None, scale: int) -> str:
    if row is None:
        return _NONE
    return f"{row.value * scale:.{max(row.decimals - 2, 0)}f}" if scale == 100 else str(row.printed)


def _measured(
    section: Section, row: Row, train: str, columns: list[tuple], averages: dict[str, tuple[str, ...]], scale: int
) -> list[str]:
    cells = []
    for test_set, level, metric in columns:
        ours = metric_here(level, metric)
        sets = averages.get(test_set, (test_set,))
        here = [next((name for name in own_names(each) if name in section.test_names), None) for each in sets]
        known = ours and here and None not in here
        cells.append(_text(row.mean(here, ours) if known else Cell(), scale))
    clips = f" (clips of {row.first.clip_frames})" if row.by_clips else ""
    return [row.first.title + clips, train, *cells]


def _text(cell: Cell, scale: int) -> str:
    if cell.mean is None:
        return _NONE
    digits = 1 if scale == 100 else 3
    spread = "" if cell.sd is None else f" ± {cell.sd * scale:.{digits}f}"
    return f"{cell.mean * scale:.{digits}f}{spread}"
