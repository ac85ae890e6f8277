"""Writes the leaderboard: its pages and its tables, from result files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.training.board.collecting import RESULT_FILE, Pending, Problem, collect
from resproto_fd.training.board.exports import to_csv, to_json, to_markdown
from resproto_fd.training.board.index_page import render
from resproto_fd.training.board.latex import to_latex
from resproto_fd.training.board.notes import of_other_pixels
from resproto_fd.training.board.paper_table import find_table, paper_table
from resproto_fd.training.board.published_page import render_published
from resproto_fd.training.board.rendering import EXPORTS, INDEX, PUBLISHED, ROWS, map_path, row_path
from resproto_fd.training.board.row_page import render_map, render_row, stored_embedding
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.board.table import Section, sections
from resproto_fd.training.grouping import read_groups, side_folders
from resproto_fd.training.published import load_published, load_sources


@dataclass
class Summary:
    """What `build` made."""

    out_dir: Path
    runs: int
    sections: list[Section]
    problems: list[Problem]
    papers: list[Path] = field(default_factory=list)  # a paper's table laid out again

    @property
    def other_pixels(self) -> list[str]:
        """Runs that were scored on other pixels than the rest of their table; the page has these notes too."""
        return [f"{section.protocol}: {note}" for section in self.sections for note in of_other_pixels(section)]

    @property
    def page(self) -> Path:
        return self.out_dir / "index.html"


def build(
    runs: Iterable[str | Path],
    out_dir: str | Path,
    paper: str | None = None,
    groups: Sequence[str] = (),
    side: Sequence[str | Path] = (),
    pending: Sequence[Pending] = (),
) -> Summary:
    """Write the site into a folder: index.html, published.html, a page a row under rows/, and the tables as
    leaderboard.csv, .md, .tex and .json.

    Args:
        runs: Result files, run folders, or folders above run folders.
        out_dir: Made when missing; files of these names in it are replaced, pages of rows that are no more removed.
        paper: A paper's table to lay out with measured rows, see `paper_table.find_table`.
        groups: Columns of side files that groups of videos are made by, on each row's page.
        side: The side files, see `grouping.read_groups`; those beside the runs' manifests if not given.
        pending: Runs of a sweep that have no result yet; the first page names them.

    Returns:
        What was made. Broken result files are left out, named in `problems` and on the page.

    Raises:
        UserError: A path does not exist, there is no result file that can be used, no such table of a paper, or no
            such column, or `out_dir` has a site of something else; nothing is written then.
    """
    _refuse_strange_site(Path(out_dir))
    if paper is not None:
        find_table(paper)
    reader = ScoreReader()
    results, problems = collect(runs, reader)
    if not results:
        raise _nothing_usable(problems, out_dir)
    facts = read_groups(groups, side or side_folders(run.config for run in results)) if groups else {}
    tables = sections(results, reader)
    out_dir = Path(out_dir)
    files = {
        EXPORTS["CSV"]: to_csv(results, reader),
        EXPORTS["Markdown"]: to_markdown(tables, problems),
        EXPORTS["LaTeX"]: to_latex(tables),
        EXPORTS["JSON"]: to_json(tables, problems),
        PUBLISHED: render_published(load_published(), load_sources()),
    }
    rows = [(section, row) for section in tables for row in section.rows]
    files |= {row_path(*each): render_row(*each, facts) for each in rows}
    for section, row in rows:
        embedding, _ = stored_embedding(row)
        if embedding is not None:
            files[map_path(section, row)] = render_map(section, row, embedding)
    files[INDEX] = render(tables, problems, pending)  # last: it links to the others
    for name, text in files.items():
        with atomic_file(out_dir / name) as file:
            file.write(text.encode())
    for stale in filter(Path.is_file, sorted((out_dir / ROWS).glob("*.html"))):
        if f"{ROWS}/{stale.name}" not in files and _MADE in stale.read_text(encoding="utf-8", errors="replace")[:1000]:
            stale.unlink()
    papers = [] if paper is None else paper_table(paper, tables).write(out_dir)
    return Summary(out_dir, len(results), tables, problems, papers)


def _refuse_strange_site(out_dir: Path) -> None:
    index = out_dir / INDEX
    if index.is_file() and _MADE not in index.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise UserError(
            f"{index}: expected no file or a page of an earlier leaderboard, got another page; set --out DIR"
        )


def _nothing_usable(problems: Sequence[Problem], out_dir: str | Path) -> UserError:
    """The error when every result file is left out; the first of them are named."""
    shown = [str(problem) for problem in problems[:5]] + ["..."] * (len(problems) > 5)
    return UserError(
        f"no usable {RESULT_FILE} among {len(problems)}; mend them or train or test again (nothing is written to "
        f"{out_dir}):\n  " + "\n  ".join(shown)
    )


_MADE = '<meta name="generator" content="resproto leaderboard">'
