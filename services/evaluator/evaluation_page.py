"""An evaluation's report to read: every number with its interval, the worst classes, and the protocol."""

import html
from collections.abc import Mapping, Sequence
from itertools import groupby

from .evaluation_tables import Section, closing, tables, title, worst_classes
from .mistakes import Mistake
from .pages import document, figure, heading, listed, markdown_list, markdown_table, picture, plain, table
from .report import BenchmarkReport, Report

MISTAKES = "The first photos of each class that were taken for another:"


def markdown(report: Report, figures: Sequence[str]) -> str:
    """`figures` are names of SVG files beside it."""
    lines = [f"# {plain(title(report))}", ""]
    lines += [line for name in figures for line in (f"![{name}]({name})", "")]
    for section in (*tables(report), *map(worst_classes, with_mistakes(report))):
        lines += [f"## {plain(section.title)}", "", *markdown_table(section.columns, section.rows)]
    return "\n".join([*lines, "## Protocol", "", *markdown_list(closing(report))]) + "\n"


def page(report: Report, figures: Mapping[str, bytes], mistakes: Mapping[str, Sequence[Mistake]]) -> str:
    """`figures` are the SVG files by name, which it holds as pictures, as it does the `mistakes` of each test set."""
    body = [figure(name, svg) for name, svg in figures.items()]
    body += [shown(section) for section in tables(report)]
    for known in with_mistakes(report):
        body += [shown(worst_classes(known)), gallery(known, mistakes.get(known.name, ()))]
    return document(title(report), [*body, heading("Protocol"), listed(closing(report))])


def with_mistakes(report: Report) -> list[BenchmarkReport]:
    return [known for known in report.benchmarks if known.worst]


def shown(section: Section) -> str:
    return heading(section.title) + table(section.columns, section.rows)


def gallery(known: BenchmarkReport, mistakes: Sequence[Mistake]) -> str:
    names = {worst.id: worst.name for worst in known.worst}
    rows = (
        f"<dt>{html.escape(names[class_id])}</dt><dd>{''.join(map(photo, group))}</dd>"
        for class_id, group in groupby(mistakes, key=lambda mistake: mistake.class_id)
    )
    return f"<p>{MISTAKES}</p><dl>{''.join(rows)}</dl>" if mistakes else ""


def photo(mistake: Mistake) -> str:
    image = picture(f"taken for {mistake.taken_for}", mistake.jpeg, media_type="image/jpeg")
    return f"<figure>{image}<figcaption>{html.escape(mistake.taken_for)}</figcaption></figure>"
