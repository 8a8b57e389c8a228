"""The review sheet: one HTML file with keys for accepting, rejecting and relabelling, which saves a CSV.

The only script in it is the one below; see ``strict.page`` for what the page may and may not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policyguard.images.written import preview
from policyguard.strict.page import render
from policyguard.train.pairs.candidate import Candidate
from policyguard.train.pairs.review import Decision, columns

__all__ = ["review_page"]

_SIDE = 320
_STYLE = """
article { border: 1px solid var(--line); border-left-width: 6px; padding: .6rem 1rem; margin: 1rem 0 }
article.now { outline: 2px solid var(--blue) }
article[data-decision=accept] { border-left-color: var(--green) }
article[data-decision=reject] { border-left-color: var(--red) }
.twins { display: flex; gap: 1rem; flex-wrap: wrap }
button { margin: 0 .3rem .3rem 0 }
td, th { padding: .2rem .6rem }
.unsafe { color: var(--red) } .safe { color: var(--green) }
header { position: sticky; top: 0; background: var(--ground); padding: .4rem 0; z-index: 1 }
"""

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
    else if (event.key === "v") pair.querySelectorAll("label.blurred input").forEach(box => {
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
    pairs = []
    for candidate in candidates:
        decision = by_id.get(candidate.id) or Decision(candidate.id, "", candidate.labels)
        figures = [
            (path, preview(folder / path, side=_SIDE) if images else None)
            for path in (candidate.before, candidate.after)
        ]
        pairs.append((candidate, decision, figures))
    return render(
        "train/pairs/sheet.html",
        style=_STYLE,
        script=SCRIPT,
        columns=columns(candidates),
        pairs=pairs,
        thumbnails=images,
    )
