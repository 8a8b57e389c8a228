"""The review sheet: one HTML file with keys for accepting, rejecting and relabelling, which saves a CSV.

The only script in it is the one below; see ``strict.page`` for what the page may and may not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policyguard.images.thumbnail import blurred_thumbnail_html
from policyguard.strict.page import document, text
from policyguard.train.pairs.candidate import Candidate, Labels
from policyguard.train.pairs.review import Decision, columns

__all__ = ["review_page"]

_SIDE = 320
_STYLE = """
article { border: 1px solid #d9dde2; border-left: 6px solid #d9dde2; padding: .6rem 1rem; margin: 1rem 0 }
article.now { outline: 2px solid #1d4ed8 }
article[data-decision=accept] { border-left-color: #15803d }
article[data-decision=reject] { border-left-color: #b91c1c }
.twins { display: flex; gap: 1rem; flex-wrap: wrap }
button { font: inherit; margin: 0 .3rem .3rem 0 }
kbd { background: #eef1f4; padding: 0 .3em; border-radius: 3px }
td, th { padding: .2rem .6rem }
.unsafe { color: #b91c1c } .safe { color: #15803d }
header { position: sticky; top: 0; background: #fff; padding: .4rem 0; z-index: 1 }
"""

_BUTTONS = (("accept", "accept"), ("reject", "reject"), ("", "undecided"))

SCRIPT = """
"use strict";
const NEXT = {"": "safe", "safe": "unsafe", "unsafe": ""};
function cell(value) {
  value = value.replace(/^(?='*[=+\\-@\\t\\r])/, "'");
  return /[",\\r\\n]/.test(value) ? '"' + value.replace(/"/g, '""') + '"' : value;
}
function toCsv(head, rows) {
  return [head, ...rows].map(row => row.map(cell).join(",") + "\\r\\n").join("");
}
function start(document, window) {
  const all = selector => [...document.querySelectorAll(selector)];
  const pairs = all("article");
  const head = all("#head li").map(item => item.textContent);
  let now = 0;
  function show(place) {
    if (!pairs.length) return;
    pairs[now].classList.remove("now");
    now = Math.max(0, Math.min(pairs.length - 1, place));
    pairs[now].classList.add("now");
    pairs[now].scrollIntoView({block: "nearest"});
  }
  function decide(pair, choice) {
    pair.dataset.decision = choice;
    const decided = pairs.filter(one => one.dataset.decision).length;
    document.querySelector("#count").textContent = decided + " of " + pairs.length + " decided";
  }
  function turn(label) {
    if (!label) return;
    label.textContent = NEXT[label.textContent];
    label.className = "label " + label.textContent;
  }
  function rows() {
    return pairs.map(pair => {
      const labels = {};
      pair.querySelectorAll(".label").forEach(label => { labels[label.dataset.column] = label.textContent; });
      return head.map(name => name === "pair" ? pair.id : name === "decision" ? pair.dataset.decision
        : name === "note" ? pair.querySelector("input.note").value : labels[name] || "");
    });
  }
  function save() {
    const link = document.createElement("a");
    link.href = window.URL.createObjectURL(new window.Blob([toCsv(head, rows())], {type: "text/csv"}));
    link.download = "review.csv";
    link.click();
  }
  document.addEventListener("keydown", event => {
    if (event.target.className === "note" || event.ctrlKey || event.metaKey || event.altKey) return;
    const pair = pairs[now], digit = /^Digit([1-9])$/.exec(event.code);
    if (event.key === "j" || event.key === "ArrowDown") show(now + 1);
    else if (event.key === "k" || event.key === "ArrowUp") show(now - 1);
    else if (event.key === "a") { decide(pair, "accept"); show(now + 1); }
    else if (event.key === "r") { decide(pair, "reject"); show(now + 1); }
    else if (event.key === "u") decide(pair, "");
    else if (event.key === "v") pair.querySelectorAll("label.picture input").forEach(box => {
      box.checked = !box.checked;
    });
    else if (event.key === "s") save();
    else if (digit) turn(pair.querySelectorAll(event.shiftKey ? ".before" : ".after")[digit[1] - 1]
      .querySelector(".label"));
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", event => {
    const pair = event.target.closest("article");
    if (pair) show(pairs.indexOf(pair));
    if (event.target.dataset.choice !== undefined && pair) decide(pair, event.target.dataset.choice);
    if (event.target.classList.contains("label")) turn(event.target);
    if (event.target.id === "save") save();
  });
  pairs.forEach(pair => decide(pair, pair.dataset.decision));
  show(0);
  return {rows, head};
}
if (typeof document !== "undefined") start(document, window);
"""


def review_page(
    candidates: Sequence[Candidate], decisions: Sequence[Decision], folder: Path, *, images: bool = False
) -> str:
    """HTML. ``images``: put small ones in, blurred until clicked; otherwise only their file names."""
    by_id = {decision.id: decision for decision in decisions}
    keys = (
        "<p><kbd>j</kbd> <kbd>k</kbd> next, previous · <kbd>a</kbd> accept · <kbd>r</kbd> reject · "
        "<kbd>u</kbd> undecided · <kbd>1</kbd>…<kbd>9</kbd> relabel the twin under that policy, with "
        "<kbd>Shift</kbd> the original · <kbd>v</kbd> view the images · <kbd>s</kbd> save the CSV</p>"
    )
    head = "".join(f"<li>{text(name)}</li>" for name in columns(candidates))
    body = [
        "<h1>Review of edit pairs</h1>",
        f'<header>{keys}<button id="save">save review.csv</button> <span id="count"></span></header>',
        f'<ol id="head" hidden>{head}</ol>',
        *(_pair(candidate, by_id.get(candidate.id), folder, images) for candidate in candidates),
    ]
    return document("Review of edit pairs", body, style=_STYLE, script=SCRIPT)


def _pair(candidate: Candidate, decision: Decision | None, folder: Path, images: bool) -> str:
    decision = decision or Decision(candidate.id, "", candidate.labels)
    rules = ", ".join(candidate.rules) or "no one rule"
    about = (
        f"edited by {candidate.editor} in {candidate.attempts} attempts; {candidate.region:.1%} of the "
        f"image changed, {candidate.outside:.2f} levels outside; violated {rules}"
    )
    return "".join(
        [
            f'<article id="{text(candidate.id)}" data-decision="{decision.choice}">',
            f'<h2 class="small">{text(candidate.id)}</h2><div class="twins">',
            *(_figure(folder, path, images) for path in (candidate.before, candidate.after)),
            f'</div><p class="small">{text(about)}</p>',
            "<table><tr><th></th><th>policy</th><th>original</th><th>twin</th></tr>",
            *(_labels(number, *item) for number, item in enumerate(decision.labels.items(), 1)),
            "</table>",
            *(f'<button data-choice="{choice}">{name}</button>' for choice, name in _BUTTONS),
            f'<input class="note" aria-label="note" value="{text(decision.note)}"></article>',
        ]
    )


def _figure(folder: Path, path: str, images: bool) -> str:
    preview = blurred_thumbnail_html(folder / path, side=_SIDE) if images else ""
    return f'<figure>{preview}<figcaption class="small">{text(path)}</figcaption></figure>'


def _labels(number: int, policy: str, labels: Labels) -> str:
    cells = [_label(side, policy, getattr(labels, side)) for side in ("before", "after")]
    return f"<tr><td>{number}</td><td>{text(policy)}</td>{''.join(cells)}</tr>"


def _label(side: str, policy: str, label: str | None) -> str:
    value, column = label or "", text(f"{side}: {policy}")
    return f'<td class="{side}"><button class="label {value}" data-column="{column}">{value}</button></td>'
