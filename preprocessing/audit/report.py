"""Report of an audit: as text, and as one HTML file that needs no other file."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.audit.case import Audit, Finding

SIDE = 112
"""Pixels of a thumbnail's longer side."""
OPEN = 3
"""Most names of a list that is open at first."""
HEADS = ("data set", "split", "videos", "frames", "frames a video", "fake", "methods", "people", "frame sizes")


def as_text(audit: Audit) -> str:
    """Writes the report for a terminal."""
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


def as_html(audit: Audit) -> str:
    """Writes the report as a page. The template escapes everything from the data. The page loads nothing."""
    loader = PackageLoader("resproto_fd.preprocessing.audit", ".")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("report.html")
    return template.render(
        title=", ".join(dict.fromkeys(row["dataset"] for row in audit.sets)) or "nothing",
        verdict=_verdict(audit),
        state="error" if audit.count("error") else "warning" if audit.count("warning") else "clean",
        heads=HEADS,
        rows=[_cells(row) for row in audit.sets],
        findings=[_shown(audit, finding) for finding in audit.findings],
        notes=audit.notes,
    )


def _shown(audit: Audit, finding: Finding) -> dict[str, Any]:
    figures = [
        {"path": path, "caption": caption, "picture": _thumbnail(audit, path)} for path, caption in finding.pictures
    ]
    return {
        "severity": finding.severity,
        "check": finding.check,
        "where": finding.where,
        "text": finding.text,
        "figures": figures,
        "names": finding.names,
        "count": finding.count,
        "more": finding.count > len(finding.names),
        "open": finding.count <= OPEN,
    }


def _thumbnail(audit: Audit, path: str) -> str:
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


def _verdict(audit: Audit) -> str:
    errors, warnings = audit.count("error"), audit.count("warning")
    if not errors and not warnings:
        return "nothing found"
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
