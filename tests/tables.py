"""Tables that are printed when the tests have ended: pytest hides what passing tests write, and xdist's workers too."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

Line = Sequence[str | int]
Report = Callable[[str, Line, Iterable[Line]], None]
Tally = Callable[[str, str], None]
TABLE, TALLY = "table", "tally"


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Takes a title, a head and lines; what several tests say under one title becomes one table."""

    def note(title: str, head: Line, lines: Iterable[Line]) -> None:
        table = (title, as_text(head), [as_text(line) for line in lines])
        request.node.user_properties.append((TABLE, table))

    return note


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts one more of a name under a title; the counts of all tests are added up."""
    counted = Counter[tuple[str, str]]()
    yield lambda title, name: counted.update([(title, name)])
    request.node.user_properties.extend((TALLY, (*key, number)) for key, number in counted.items())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ends = [each for reports in terminalreporter.stats.values() for each in reports if is_end(each)]
    # Workers report in any order.
    notes = [note for end in sorted(ends, key=lambda end: end.nodeid) for note in end.user_properties]
    tables: dict[str, list[list[str]]] = {}
    for title, head, lines in [
        *(table for name, table in notes if name == TABLE),
        *added_up(count for name, count in notes if name == TALLY),
    ]:
        tables.setdefault(title, [head]).extend(lines)
    for title, lines in tables.items():
        terminalreporter.section(title)
        terminalreporter.write_line("\n".join(aligned(lines)))


def is_end(report: object) -> bool:
    """A test's last report, which has all that it noted."""
    return isinstance(report, pytest.TestReport) and report.when == "teardown"


def added_up(counts: Iterable[tuple[str, str, int]]) -> list[tuple[str, list[str], list[list[str]]]]:
    tests, total = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for title, name, number in counts:
        tests[title, name] += 1
        total[title, name] += number
    return [
        (title, ["", "tests", "in all"], [[name, str(tests[title, name]), str(number)]])
        for (title, name), number in total.items()
    ]


def as_text(line: Line) -> list[str]:
    return [str(cell) for cell in line]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, everything else to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
