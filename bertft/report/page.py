"""The report page: one HTML file that needs nothing else, neither network nor scripts.

It says in order what was compared, what came out in a sentence, the picture, the numbers with their intervals, how to
read them and what lowers trust in them, and the record by which a number can be traced. Style sheet and pictures stand
inside; it follows the reader's light or dark setting, and wide tables scroll inside themselves on a phone.
Every text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from bertft.records import Row, plain
from bertft.report.figures import figure, svg
from bertft.report.series import Panel, Series, base_names, findings, headline, panels, series, short_names, size, title

FEW_SENTENCES = 100
"""Below this many sentences a normal 95 % interval is likely too narrow."""

MOST_FINDINGS = 6
"""More findings than these are folded away."""

MEAN_COSINE = (
    "<strong>Mean cosine</strong> of two tokens in one model: near 1 all vectors point the same way, and RSA rests "
    "on small differences between nearly equal cosines."
)

EXPLAINED = {
    "rsa": (
        "<strong>RSA</strong> compares two models without training anything. Take two tokens of the text: how alike "
        "are their vectors in the base model, and how alike in the tuned one? Alike means the cosine of the two "
        "vectors. RSA is the Pearson correlation of these two answers over all pairs of the tokens drawn. At 1 every "
        "pair stands as it did; near 0 the old arrangement is gone. Turning or scaling a layer does not change it."
    ),
    "rsa-correlation": (
        "<strong>RSA (correlation)</strong> is RSA with each vector’s own mean taken off before the cosine."
    ),
    "rsa-dot": "<strong>RSA (dot)</strong> is RSA with the dot product of two vectors in place of their cosine.",
    "rsa-sqeuclidean": (
        "<strong>RSA (sqeuclidean)</strong> is RSA with the squared distance of two vectors in place of their cosine."
    ),
    "cka": (
        "<strong>CKA</strong> compares the dot products of centred vectors in the two models; 1 means the same up to "
        "rotation and scale. Unlike RSA it gives long vectors and directions of large variance more weight."
    ),
    "cka-biased": (
        "<strong>CKA (biased)</strong> is CKA without the correction for few tokens: it is too high where they are few."
    ),
    "cca": "<strong>CCA</strong> is the mean correlation of the best matched directions of the two models.",
    "svcca": "<strong>SVCCA</strong> is CCA of the directions that hold most of the variance.",
    "pwcca": (
        "<strong>PWCCA</strong> is CCA with each direction weighted by how much of the base model it accounts for."
    ),
    "procrustes": (
        "<strong>Procrustes</strong> says how well one model’s vectors fall on the other’s after the best rotation."
    ),
    "mean-cosine-base": MEAN_COSINE,
    "mean-cosine-tuned": MEAN_COSINE,
}
"""What each measure says, as HTML."""

INTERVAL = """
<p><strong>±</strong> is half the 95 % interval: 1.96 standard errors. Tokens of one sentence resemble each other, so
the sentence, not the token, counts as one draw. The interval says how far the number would move with other sentences
from the same source. It does not cover another fine-tuning run with another seed, which often moves the top layers
more. Layer 0 is the output of the embeddings; “1 exactly” means that both models have the same weights up to there.</p>
<p>Trust a score less when</p>"""

SPREAD = """
<p><strong>σ</strong> beside a mean is the standard deviation over the pairs of models that it is taken of: how far the
number moves with other seeds of what differs between the pairs, pre-training, fine-tuning or both.</p>"""

DOUBTS = (
    "it rests on few sentences, or on text unlike what the model will meet: text like the training data moves more;",
    "it comes from one fine-tuning run: repeat with other seeds before comparing two tasks;",
    "it is the last layer’s: that layer follows the form of the task’s output more than its content;",
    "a few coordinates outweigh all others, as in the top layers of many models: see whether "
    "<code>--standardize</code> tells the same story;",
    "it is read as cause: a layer can change without mattering to the task, and matter without changing.",
)


def page(rows: Sequence[Row], run: Mapping[str, Any]) -> str:
    """Return the report of the rows and their run record as one self-contained HTML document."""
    curves = series(rows)
    measures = list(dict.fromkeys(curve.measure for curve in curves))
    base = ", ".join(base_names(curves).values())
    tuned = list(short_names(curve.tuned for curve in curves if curve.n_pairs == 1).values())
    heading = f"What fine-tuning changed in {base}"
    body = "\n".join(
        (
            f"<h1>{escape(heading)}</h1>",
            f'<p class="lead">{compared(base, tuned, curves)}</p>',
            f'<p class="finding">{escape(headline(rows))}</p>',
            one_by_one(rows),
            *(picture(rows, measure) for measure in measures),
            "<h2>Scores by layer</h2>",
            *map(table, panels(rows)),
            reading(curves, measures, run),
            record(run),
        )
    )
    css = (files(__package__) / "page.css").read_text(encoding="utf-8")
    version = plain(run).get("versions", {}).get("bertft", "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"<footer>Made by bertft {escape(str(version))}. The same numbers stand in <code>scores.json</code> and "
        "<code>scores.csv</code> beside this page.</footer>\n</main>\n</body>\n</html>\n"
    )


def compared(base: str, tuned: Sequence[str], curves: Sequence[Series]) -> str:
    """Return the paragraph that says what was compared with what, on which text."""
    strong = [f"<strong>{escape(name)}</strong>" for name in tuned]
    texts = dict.fromkeys(f"{escape(curve.corpus)} ({size(curve)})" for curve in curves)
    return f"{listed(strong)} against <strong>{escape(base)}</strong>, layer by layer, on {listed(list(texts))}."


def listed(items: Sequence[str]) -> str:
    """Return items as a list in words: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "nothing"


def one_by_one(rows: Sequence[Row]) -> str:
    """Return the finding of each curve, where there are several."""
    found = findings(rows)
    if len(found) < 2:
        return ""
    items = "".join(
        f"<li><strong>{escape(who[0].upper() + who[1:])}</strong>: {escape(text)}</li>" for who, text in found
    )
    listing = f'<ul class="findings">{items}</ul>'
    return listing if len(found) <= MOST_FINDINGS else f"<details><summary>Each by itself</summary>{listing}</details>"


def picture(rows: Sequence[Row], measure: str) -> str:
    """Return one measure's picture inside a figure, with words for those who do not see it."""
    drawing = figure(rows, measure)
    alternative = f"{title(measure)} by layer, one line a comparison; the numbers are in the table below."
    drawn = svg(drawing, measure).replace("<svg", f'<svg role="img" aria-label="{escape(alternative)}"', 1)
    return f"<figure{' class=wide' if len(drawing.axes) > 1 else ''}>{drawn}</figure>"


def table(panel: Panel) -> str:
    """Return the table of a panel: a row a layer, a column a curve."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in panel.lines)
    known = [dict(zip(c.layers, zip(c.values, c.estimates(), strict=True), strict=True)) for c in panel.lines.values()]
    lines = []
    for layer in sorted({layer for numbers in known for layer in numbers}):
        cells = "".join(cell(*numbers[layer]) if layer in numbers else "<td></td>" for numbers in known)
        lines.append(f'<tr><th scope="row">{layer}</th>{cells}</tr>')
    return (
        f"<h3>{escape(panel.heading)} <small>{escape(panel.detail)}</small></h3>\n"
        f'<div class="scroll"><table class="scores"><thead><tr><th scope="col">Layer</th>{head}</tr></thead>\n'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell(value: float, estimate: str) -> str:
    """Return a table cell with a number, its ± or σ and a bar behind them that is full at 1."""
    number, _, half = estimate.partition(" ")
    if number in ("undefined", "1"):
        number, half = estimate, ""
    share = 100 * min(max(value, 0.0), 1.0) if math.isfinite(value) else 0
    half = f' <span class="pm">{escape(half)}</span>' if half else ""
    return f'<td style="--share:{share:.1f}%">{number}{half}</td>'


def reading(curves: Sequence[Series], measures: Sequence[str], run: Mapping[str, Any]) -> str:
    """Return how to read the page: what the measures are, what ± is, and what lowers trust here."""
    explained = "\n".join(dict.fromkeys(f"<p>{EXPLAINED[measure]}</p>" for measure in measures if measure in EXPLAINED))
    few = min((curve.n_sentences for curve in curves), default=FEW_SENTENCES)
    cautions = [escape(str(note)) for note in run.get("notes", ())]
    if few < FEW_SENTENCES:
        cautions.append(f"Only {few} sentences were read for at least one curve: its intervals are likely too narrow.")
    if any(not math.isfinite(value) for curve in curves for value in curve.values):
        cautions.append("An undefined score means that every pair of tokens was equally alike in one of the models.")
    here = f'<div class="caution"><strong>In this run</strong><ul>{items(cautions)}</ul></div>' if cautions else ""
    interval = INTERVAL
    if any(curve.n_pairs > 1 for curve in curves):
        interval = SPREAD + interval
    return f"<h2>How to read this</h2>\n{explained}\n{interval}\n<ul>{items(DOUBTS)}</ul>\n{here}"


def items(texts: Sequence[str]) -> str:
    """Return texts that are HTML already as list items."""
    return "".join(f"<li>{text}</li>" for text in texts)


def record(run: Mapping[str, Any]) -> str:
    """Return the run record as one table a part: what it takes to get the same numbers again."""
    parts = ["<h2>Run record</h2>"]
    simple = {}
    for key, value in plain(run).items():
        if key == "notes":
            continue
        if isinstance(value, dict) and value:
            heading = "Timings in seconds" if key == "timings" else key.replace("_", " ").capitalize()
            parts.append(f"<h3>{escape(heading)}</h3>{record_table(value)}")
        else:
            simple[key] = value
    if simple:
        parts.insert(1, record_table(simple))
    return "\n".join(parts)


def record_table(entries: Mapping[str, Any]) -> str:
    """Return names and values as a two-column table."""
    lines = (
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(words(value))}</td></tr>' for key, value in entries.items()
    )
    return f'<div class="scroll"><table class="record"><tbody>{"".join(lines)}</tbody></table></div>'


def words(value: Any) -> str:
    """Return a value of the run record as text."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(words(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
