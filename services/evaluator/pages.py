"""Reports to read, as Markdown or as one HTML file without scripts; whatever words come in, none of them is markup."""

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}th,td{padding:.2rem .7rem;border-bottom:1px solid #ccc;text-align:right}"
    "th:first-child,td:first-child{text-align:left}td+td{white-space:nowrap}img{max-width:100%}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.8rem}dt{max-width:14rem}dd{margin:0}"
    "figure{display:inline-block;width:7rem;margin:0 .5rem 0 0;vertical-align:top;font-size:.8rem}"
    "figure img{height:64px;display:block}"
)

Cells = Sequence[Sequence[str]]


def plain(text: str) -> str:
    """Text of a user's that is no markup: also what would be HTML in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!$" else letter for letter in text.replace("\n", " "))


def markdown_table(columns: Sequence[str], rows: Cells) -> list[str]:
    """Its lines, with an empty one at the end."""
    head = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    return [*head, *(f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows), ""]


def markdown_list(lines: Iterable[str]) -> list[str]:
    return [f"* {plain(line)}" for line in lines]


def document(title: str, body: Iterable[str]) -> str:
    """`body` is markup; the title is not, and stands above it too."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    inner = "".join([f"<h1>{html.escape(title)}</h1>", *body])
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{inner}</body></html>\n'


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def picture(alternative: str, data: bytes, *, media_type: str) -> str:
    """Held in the page itself."""
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:{media_type};base64,{encoded}">'


def figure(name: str, svg: bytes) -> str:
    return f"<p>{picture(name, svg, media_type='image/svg+xml')}</p>"


def table(columns: Sequence[str], rows: Cells) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"


def listed(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"
