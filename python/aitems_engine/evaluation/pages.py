"""A page of headings, tables and pictures, as Markdown (pictures beside it) and as one HTML file (pictures inside)."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_STYLE = """
body{font:15px/1.5 system-ui,-apple-system,"Noto Sans KR","Malgun Gothic",sans-serif;color:#222}
body{max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{border:1px solid #ddd;padding:.25rem .6rem;text-align:left;vertical-align:top}th{background:#f5f5f5}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:1rem 0}figcaption{color:#555;font-size:.9rem}img{max-width:100%}
"""


class Page:
    """Collects the parts of a page; `write` makes the files."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._markdown = [f"# {title}"]
        self._html: list[str] = []
        self._pictures: dict[str, bytes] = {}

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._markdown.append(f"## {text}")
        self._html.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._markdown.append(_inline(text))
        self._html.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; cells are shown as text, whatever they hold."""
        lines = ["| " + " | ".join(map(_inline, header)) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(_inline(str(cell)) for cell in row) + " |" for row in rows]
        self._markdown.append("\n".join(lines))
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
        self._html.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, name: str, png: bytes, caption: str) -> None:
        """Add a PNG picture."""
        self._pictures[name] = png
        self._markdown.append(f"![{_inline(caption)}]({name})")
        encoded = base64.b64encode(png).decode()
        text = html.escape(caption)
        self._html.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'
        )

    def write(self, directory: Path) -> None:
        """Write report.md, its pictures, and report.html."""
        for name, png in self._pictures.items():
            (directory / name).write_bytes(png)
        (directory / "report.md").write_text("\n\n".join(self._markdown) + "\n", encoding="utf-8")
        title = html.escape(self._title)
        (directory / "report.html").write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
            f"<body><h1>{title}</h1>\n" + "\n".join(self._html) + "\n</body></html>\n",
            encoding="utf-8",
        )


def _inline(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return text.replace("`", "\\`").replace("*", "\\*").replace("[", "\\[")


def _cell(value: object) -> str:
    text = str(value)
    number = text.replace(".", "", 1).replace("-", "", 1).replace("%", "", 1).strip().isdigit()
    return f"<td{' class=n' if number else ''}>{html.escape(text)}</td>"
