"""An audit for a reader: as text, and as one HTML file that needs nothing else."""

import base64
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from resproto_fd.configs.errors import UserError

if TYPE_CHECKING:
    from resproto_fd.preprocessing.audit.case import Audit, Finding

SIDE = 112
"""Pixels of a thumbnail's longer side."""
OPEN = 3
"""Names up to which a list is shown without asking."""
HEADS = ("data set", "split", "videos", "frames", "frames a video", "fake", "methods", "people", "frame sizes")


def as_text(audit: "Audit") -> str:
    """The report for a terminal."""
    rows = [HEADS, *(_cells(row) for row in audit.sets)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for finding in audit.findings:
        lines += ["", f"{finding.severity.upper()}  {finding.check}  [{finding.where}]", f"  {finding.text}"]
        lines += [f"    {name}" for name in finding.names[:5]]
        if finding.count > 5 and len(finding.names) > 5:
            lines.append("    ...")
    lines += ["", *(f"note: {note}" for note in audit.notes), _verdict(audit)]
    return "\n".join(lines)


def as_html(audit: "Audit") -> str:
    """The report as a page. Everything that came from the data is escaped; nothing is loaded from anywhere."""
    template = Template((files("resproto_fd.preprocessing.audit") / "audit_report.html").read_text(encoding="utf-8"))
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(row))}</tr>" for row in audit.sets)
    return template.substitute(
        title=escape(", ".join(dict.fromkeys(row["dataset"] for row in audit.sets)) or "nothing"),
        verdict=escape(_verdict(audit)),
        state="error" if audit.count("error") else "warning" if audit.count("warning") else "clean",
        heads="".join(f"<th>{head}</th>" for head in HEADS),
        rows=rows,
        findings="".join(_section(audit, finding) for finding in audit.findings),
        notes="".join(f"<li>{escape(note)}</li>" for note in audit.notes),
    )


def _section(audit: "Audit", finding: "Finding") -> str:
    figures = "".join(_figure(audit, path, caption) for path, caption in finding.pictures)
    names = "".join(f"<li>{escape(name)}</li>" for name in finding.names)
    more = finding.count - len(finding.names)
    state = " open" if finding.count <= OPEN else ""
    listed = f"<details{state}><summary>{finding.count} in all</summary><ul>{names}" if names else ""
    closing = ("<li>...</li>" if more > 0 else "") + "</ul></details>" if names else ""
    return (
        f'<section class="{finding.severity}"><h2><span>{finding.severity}</span> {escape(finding.check)} '
        f"<small>{escape(finding.where)}</small></h2><p>{escape(finding.text)}</p>"
        f'<div class="pictures">{figures}</div>{listed}{closing}</section>'
    )


def _figure(audit: "Audit", path: str, caption: str) -> str:
    picture = _thumbnail(audit, path)
    shown = f'<img alt="" src="data:image/jpeg;base64,{picture}">' if picture else '<div class="none">no picture</div>'
    said = f"<b>{escape(caption)}</b> " if caption else ""
    return f'<figure title="{escape(path)}">{shown}<figcaption>{said}{escape(path)}</figcaption></figure>'


def _thumbnail(audit: "Audit", path: str) -> str:
    import cv2

    try:
        image = audit.store.read(path) if audit.store else None
    except UserError:
        return ""
    if image is None:
        return ""
    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    _, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return base64.b64encode(data.tobytes()).decode()


def _cells(row: dict) -> tuple[str, ...]:
    least, most = row["frames_a_video"]
    methods = row["methods"]
    return (
        row["dataset"],
        row["split"],
        str(row["videos"]),
        str(row["frames"]),
        str(least) if least == most else f"{least} to {most}",
        f"{row['fake_share']:.1%}",
        ", ".join(methods[:3]) + (f" and {len(methods) - 3} more" if len(methods) > 3 else "") or "none",
        str(row["people"] or "not known"),
        ", ".join(row["sizes"]) or "not read",
    )


def _verdict(audit: "Audit") -> str:
    errors, warnings = audit.count("error"), audit.count("warning")
    if not errors and not warnings:
        return "nothing found"
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
