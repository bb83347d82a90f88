"""What runs return: rows of numbers and a record, as a table for notebooks, papers and pandas, a figure, and files.

`Results` has one implementation of each form. A class of results says how its rows become a table, which files are its
report, and which figure is drawn.
"""

from __future__ import annotations

import base64
import html
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from bertft.errors import OptionError, ReportWarning
from bertft.experiments.run import TOLD_FILE
from bertft.files import ResultFiles, write_results
from bertft.options import FORMATS, one_of
from bertft.records import COLUMNS, Row, as_float, csv_bytes, json_bytes, told_bytes
from bertft.untrusted import shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bertft.report.drawing import Figures, Line

PAGE = "report.html"

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")
"""Characters that Markdown may take for a mark; each may have a backslash before it."""


_LATEX = {"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
"""What pandas leaves as it is, and some fonts of LaTeX show as other characters."""


@dataclass(frozen=True)
class Layout:
    """How rows become a table.

    index: the keys that name a line of the table.  across: the keys that name a column.  A key with one value in all
    rows is left out of both, and told below the table.  kept: the rows to show, all by default.  error: returns the
    standard error of a row, nan if it is unknown. Rows of one cell, such as those of several seeds, are averaged.
    """

    index: tuple[str, ...]
    across: tuple[str, ...]
    kept: Callable[[Sequence[Row]], Iterable[Row]] = iter
    value: str = "value"
    error: Callable[[Row], float] = field(default=lambda row: math.nan)


@dataclass(frozen=True)
class Drawing:
    """A figure of lines: its title, what it shows, the names of both axes, and the lines.

    ticks: names of the places 0, 1, … on the x axis, if it has no numbers.  joined: whether lines join their points.
    """

    heading: str
    detail: str
    along: str
    label: str
    lines: Sequence[Line]
    ticks: Sequence[str] = ()
    joined: bool = True


@dataclass(frozen=True)
class Report:
    """What is shown of results beside their table: the columns of the CSV, the figures and the findings.

    notes: cautions that the page shows; those of the record by default.
    """

    columns: Sequence[str]
    figures: Figures
    findings: Sequence[str] = ()
    notes: Sequence[str] | None = None


@dataclass(frozen=True)
class _Table:
    """A table as text: `lines` begin with `names` cells that are no numbers; `notes` are told below."""

    heading: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    names: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """What a run returns: `rows` of numbers, and `run`, the record of what they rest on.

    In a notebook a result shows itself as a table with a figure. `±` in a table is one standard error; of a mean over
    seeds or pairs, that of the mean. Tables and figures raise `OptionError` where there are no rows to show.

    >>> from bertft import Scores
    >>> row = {"base": "b", "tuned": "t", "corpus": "c", "layer": 0, "measure": "rsa", "value": 0.5, "stderr": 0.1}
    >>> print(Scores([row], {"seed": 0}).to_markdown())
    | layer | rsa |
    | --- | ---: |
    | 0 | 0.5000 ± 0.1000 |
    <BLANKLINE>
    base: b; corpus: c; tuned: t. ± one standard error.
    """

    rows: list[Row]
    run: dict[str, Any]

    layout: ClassVar[Layout]
    title: ClassVar[str]
    stem: ClassVar[str]
    """The name of the files of numbers, without `.json` and `.csv`."""

    def report(self) -> Report:
        """Return what is shown of the results beside their table."""
        raise NotImplementedError

    def numbers(self) -> dict[str, bytes]:
        """Return the files of numbers: the same bytes for the same numbers."""
        rows, columns = self.rows, self.report().columns
        return {f"{self.stem}.json": json_bytes(rows, self.run), f"{self.stem}.csv": csv_bytes(rows, columns)}

    def files(
        self, formats: Sequence[str] = FORMATS[:1], told: Mapping[str, Any] = MappingProxyType({})
    ) -> ResultFiles:
        """Return all files that `save` writes.

        formats: of the figures, of `FORMATS`.  told: what `run.json` tells beside the date and the timings.
        """
        from bertft.report.drawing import image

        for form in formats:
            one_of("format", form, FORMATS)
        drawings: dict[str, Callable[[], bytes]] = {
            f"{name}.{form}": lambda draw=draw, form=form: image(draw(), form)  # type: ignore[misc]
            for name, draw in self.report().figures.items()
            for form in formats
        }
        numbers = {**self.numbers(), TOLD_FILE: told_bytes(self.run, told)}
        return ResultFiles(numbers, {**drawings, PAGE: lambda: self.page().encode(errors="backslashreplace")})

    def page(self) -> str:
        """Return the page of the results: one HTML document that needs nothing else."""
        from bertft.report.page import page, record
        from bertft.report.rows import conditions

        report, table = self.report(), self._table()
        return page(
            title=self.title,
            lead=conditions(self.run).capitalize(),
            findings=report.findings,
            cautions=[str(note) for note in (report.notes if report.notes is not None else self.run.get("notes", ()))],
            figures=report.figures,
            table=(table.heading, table.lines, table.names, table.notes),
            downloads=self._downloads(),
            record=record(self.run),
            stem=self.stem,
        )

    def drawing(self) -> Drawing:
        """Return what the main figure of the results shows."""
        raise NotImplementedError

    def draw(self, axes: Axes) -> None:
        """Draw the main figure of the results on axes: lines, with a legend."""
        from bertft.report.drawing import draw_lines, set_title

        found = self.drawing()
        draw_lines(axes, found.lines)
        set_title(axes, found.heading, found.detail)
        axes.set_xlabel(found.along)
        axes.set_ylabel(found.label)
        if found.ticks:
            axes.set_xticks(range(len(found.ticks)), list(found.ticks))
        if not found.joined:
            for line, drawn in zip(found.lines, axes.get_lines()[-len(found.lines) :], strict=True):
                drawn.set_linestyle("none")
                drawn.set_marker("_" if line.baseline else drawn.get_marker())
        if len(found.lines) > 1:  # beside the axes, where it covers nothing
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))

    def save(self, folder: str | os.PathLike[str], *, formats: Sequence[str] = FORMATS[:1]) -> list[Path]:
        """Write the files that the command writes to `--output-dir`, and return their paths.

        formats: of the figures, of png, svg and pdf.

        Raises `BertftError` where the numbers cannot be written; a figure or page that fails is left out, with a
        `ReportWarning`.
        """
        return write_results(Path(folder), self.files(formats))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the main figure on axes of matplotlib, new ones of pyplot by default, and return the axes."""
        import matplotlib.style

        from bertft.report.drawing import PANEL, STYLE

        self._shown_rows()
        if ax is None:
            import matplotlib.pyplot as plt

            with matplotlib.style.context(["default", STYLE]):
                _, ax = plt.subplots(figsize=PANEL, layout="constrained")
        self._draw_in_style(ax)
        return ax

    def figure(self) -> Figure:
        """Return the main figure of the results."""
        import matplotlib.style
        from matplotlib.figure import Figure

        from bertft.report.drawing import PANEL, STYLE

        with matplotlib.style.context(["default", STYLE]):
            drawing = Figure(figsize=PANEL, layout="constrained")
            self._draw_in_style(drawing.subplots())
        return drawing

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_json(self) -> str:
        """Return the rows and the record as JSON; an undefined number is null."""
        return json_bytes(self.rows, self.run).decode()

    def to_markdown(self) -> str:
        """Return the table in Markdown, as GitHub reads it."""
        table = self._table()
        marks = ["---"] * table.names + ["---:"] * (len(table.heading) - table.names)
        lines = [_escaped_line(table.heading), f"| {' | '.join(marks)} |", *map(_escaped_line, table.lines)]
        return "\n".join(lines) + (f"\n\n{_MARKDOWN.sub(_BACKSLASH, _told(table))}" if table.notes else "")

    def to_latex(self) -> str:
        r"""Return the table in LaTeX, with the rules of the package booktabs; the notes are comments."""
        table = self._table()
        styled = _frame(table).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        form = "l" * table.names + "r" * (len(table.heading) - table.names)
        text = str(styled.to_latex(hrules=True, column_format=form))
        for mark, command in _LATEX.items():
            text = text.replace(mark, command)
        return "".join(f"% {note}\n" for note in table.notes) + text

    def _repr_html_(self) -> str | None:
        """Return the table and the figure as one piece of HTML that needs nothing else; None without rows."""
        import pandas as pd

        if not self.rows:
            return None

        table = self._table()
        with pd.option_context("display.max_colwidth", None):
            parts = [_frame(table).to_html(index=False, border=0, escape=True, justify="left")]
        if picture := self._picture():
            kind = type(self).__name__
            parts.append(f'<img alt="Figure of {kind}" width="576" src="data:image/png;base64,{picture}">')
        if table.notes:
            parts.append(f"<p>{html.escape(_told(table))}</p>")
        return f"<div>\n{chr(10).join(parts)}\n</div>"

    def _picture(self) -> str | None:
        """Return the figure as PNG in base 64; None, with a `ReportWarning`, where it cannot be drawn."""
        from bertft.report.drawing import image

        try:
            return base64.b64encode(image(self.figure())).decode()
        except Exception as error:  # as for files: the numbers matter more
            warnings.warn(f"the figure was left out: {type(error).__name__}: {error}", ReportWarning, stacklevel=3)
            return None

    def _downloads(self) -> dict[str, bytes]:
        """Return the numbers and the table in the forms that the page offers to save, by file name."""
        texts = {"tex": self.to_latex(), "md": self.to_markdown()}
        return {
            **{name: content for name, content in self.numbers().items() if name.endswith(".csv")},
            **{f"{self.stem}.{form}": text.encode(errors="backslashreplace") for form, text in texts.items()},
        }

    def _shown_rows(self) -> list[Row]:
        """Return the rows that tables and figures show; raises `OptionError` where there are none."""
        if rows := list(self.layout.kept(self.rows)) if self.rows else []:
            return rows
        raise OptionError(f"this {type(self).__name__} has no rows to show; see its record, `run`")

    def _table(self) -> _Table:
        """Return the rows as a table, by the layout of the class."""
        rows = self._shown_rows()
        keys = [*self.layout.index, *self.layout.across]
        several = {key: len({_name(row, key) for row in rows}) > 1 for key in keys}
        index = [key for key in self.layout.index if several[key]] or list(self.layout.index[-1:])
        across = [key for key in self.layout.across if several[key]]
        last = () if across else (self.layout.across[-1],)
        cells: dict[tuple[str, ...], dict[tuple[str, ...], list[Row]]] = {}
        columns: dict[tuple[str, ...], None] = {}
        for row in rows:
            line, column = (tuple(_name(row, key) for key in some) for some in (index, [*across, *last]))
            cells.setdefault(line, {}).setdefault(column, []).append(row)
            columns[column] = None
        lines = tuple(
            (*line, *(self._cell(found.get(column, ())) for column in columns)) for line, found in cells.items()
        )
        told = [f"{key}: {_name(rows[0], key)}" for key in keys if key not in (*index, *across, *last)]
        notes = [f"{'; '.join(told)}."] if told else []
        if any("±" in cell for line in lines for cell in line[len(index) :]):
            notes.append("± one standard error.")
        heading: dict[str, None] = {}
        for title in (*(key.replace("_", " ") for key in index), *(", ".join(column) for column in columns)):
            while title in heading:  # pandas tells columns apart by their titles
                title += "'"
            heading[title] = None
        return _Table(tuple(heading), lines, len(index), tuple(notes))

    def _cell(self, rows: Sequence[Row]) -> str:
        """Return the value of a cell with its standard error; the mean where there are several rows."""
        if not rows:
            return ""
        values = [as_float(row[self.layout.value]) for row in rows]
        mean = math.fsum(values) / len(values)
        error = self.layout.error(rows[0])
        if len(values) > 1:
            error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
        if not math.isfinite(mean):
            return "undefined"
        digits = 4 if abs(mean) < 1000 else 1
        if not math.isfinite(error):
            return f"{mean:,.{digits}f}"
        if error == 0 and len(values) == 1:
            return f"{mean:g} exactly" if mean == round(mean) else f"{mean:,.{digits}f}"
        smallest = 10.0**-digits
        return f"{mean:,.{digits}f} ± " + (f"<{smallest:g}" if 0 < error < smallest / 2 else f"{error:,.{digits}f}")

    def _draw_in_style(self, axes: Axes) -> None:
        import matplotlib.style

        from bertft.report.drawing import STYLE, plain_texts

        with matplotlib.style.context(["default", STYLE]):
            self.draw(axes)
        plain_texts(axes)  # type: ignore[arg-type]


_BACKSLASH = r"\\\1"


def _escaped_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_MARKDOWN.sub(_BACKSLASH, cell) for cell in cells)} |"


def _told(table: _Table) -> str:
    return " ".join(table.notes)


def _name(row: Row, key: str) -> str:
    """Return what a row says under a key as text in one line, with control characters as escapes."""
    value = row.get(key)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else " ".join(shown(value).split())


def _frame(table: _Table) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(table.lines), columns=list(table.heading))


def reported_rows(rows: Sequence[Row]) -> Iterable[Row]:
    """Return the rows of the split that is reported: test where there is one, else dev."""
    from bertft.report.rows import shown_split

    split = shown_split(rows)
    return [row for row in rows if row["split"] == split]


def _score_error(row: Row) -> float:
    """Return the standard error of a row of `score`; that of a mean over pairs follows from their deviation."""
    if pairs := row.get("n_pairs"):
        return as_float(row["spread"]) / math.sqrt(pairs)
    return as_float(row.get("stderr"))


@dataclass(frozen=True)
class Scores(Results):
    """What `bertft.score` returns: one row for each tuned model, corpus, layer and measure, and the record of the run.

    >>> scores = Scores([{"layer": 0, "measure": "rsa", "value": 1.0, "stderr": 0.0}], {"seed": 0})
    >>> scores.to_frame().loc[0, "value"].item()
    1.0
    """

    layout: ClassVar[Layout] = Layout(("layer",), ("base", "corpus", "tuned", "measure"), error=_score_error)

    title: ClassVar[str] = "What fine-tuning changed"
    stem: ClassVar[str] = "scores"

    def report(self) -> Report:
        """Return a figure for each measure."""
        from bertft.report.score import figures

        return Report(COLUMNS, figures(self.rows, self.run))

    def page(self) -> str:
        """Return the page: the findings, the figures, the scores, how to read them, and the record."""
        from bertft.report.score.page import page

        return page(self.rows, self.run, self._downloads())

    def draw(self, axes: Axes) -> None:
        """Draw the first measure by layer, a line with its 95 % band for each tuned model and corpus."""
        from bertft.report.rows import qualified
        from bertft.report.score.figure import draw_panel, limits
        from bertft.report.score.series import Panel, labels, series, title

        found = series(self.rows)
        curves = [curve for curve in found if curve.measure == found[0].measure]
        names = labels(curves)
        several = len({curve.corpus for curve in curves}) > 1
        lines = {names[curve] + (f", {curve.corpus}" if several else ""): curve for curve in curves}
        name = title(found[0].measure)
        panel = Panel(found[0].measure, name, qualified(curves[0].corpus, self.run), lines)
        draw_panel(axes, panel, *limits(curves), self.run)
        axes.set_xlabel("Layer (0 = embeddings)")
        axes.set_ylabel(name)
