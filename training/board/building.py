"""Writes the leaderboard: its pages and its tables, from result files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.training.board.collecting import RESULT_FILE, Problem, collect
from resproto_fd.training.board.exports import to_csv, to_json, to_latex, to_markdown
from resproto_fd.training.board.index_page import render
from resproto_fd.training.board.published_page import render_published
from resproto_fd.training.board.rendering import EXPORTS, INDEX, PUBLISHED, ROWS, row_path
from resproto_fd.training.board.row_page import render_row
from resproto_fd.training.board.table import Section, sections
from resproto_fd.training.published import load_published, load_sources


@dataclass
class Summary:
    """What `build` made."""

    out_dir: Path
    runs: int
    sections: list[Section]
    problems: list[Problem]

    @property
    def page(self) -> Path:
        return self.out_dir / "index.html"


def build(runs: Iterable[str | Path], out_dir: str | Path) -> Summary:
    """Write the site into a folder: index.html, published.html, a page a row under rows/, and the tables as
    leaderboard.csv, .md, .tex and .json.

    Args:
        runs: Result files, run folders, or folders above run folders.
        out_dir: Made when missing; files of these names in it are replaced, pages of rows that are no more removed.

    Returns:
        What was made. Broken result files are left out, named in `problems` and on the page.

    Raises:
        UserError: A path does not exist, or there is no result file that can be used; nothing is written then.
    """
    results, problems = collect(runs)
    if not results:
        shown = [str(problem) for problem in problems[:5]] + ["..."] * (len(problems) > 5)
        raise UserError(
            f"no usable {RESULT_FILE} among {len(problems)}; mend them or train or test again (nothing is written to "
            f"{out_dir}):\n  " + "\n  ".join(shown)
        )
    tables = sections(results)
    out_dir = Path(out_dir)
    files = {
        EXPORTS["CSV"]: to_csv(results),
        EXPORTS["Markdown"]: to_markdown(tables, problems),
        EXPORTS["LaTeX"]: to_latex(tables),
        EXPORTS["JSON"]: to_json(tables, problems),
        PUBLISHED: render_published(load_published(), load_sources()),
    }
    files |= {row_path(section, row): render_row(section, row) for section in tables for row in section.rows}
    files[INDEX] = render(tables, problems)  # last: it links to the others
    for name, text in files.items():
        with atomic_file(out_dir / name) as file:
            file.write(text.encode())
    for stale in sorted((out_dir / ROWS).glob("*.html")):
        if f"{ROWS}/{stale.name}" not in files and _MADE in stale.read_text(encoding="utf-8", errors="replace")[:1000]:
            stale.unlink()
    return Summary(out_dir, len(results), tables, problems)


_MADE = '<meta name="generator" content="resproto leaderboard">'
