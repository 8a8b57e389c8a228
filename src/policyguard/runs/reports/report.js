
"use strict";
(() => {
  const PAGE = 100;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const rows = read("rows"), rules = read("rules"), policies = read("policies");
  const at = (id) => document.getElementById(id);
  const scored = document.querySelector("[data-sort=score]") !== null;
  const SEVERITY = { failed: 0, unjudged: 1, unchecked: 2, flagged: 3, accepted: 4, passed: 5 };
  const state = { page: 0, sort: "order", down: false, matches: rows, open: new Set() };
  rows.forEach((row, number) => {
    row.number = number;
    row.findings = row.findings || [];
    row.policies = row.policies || [];
    row.why = why(row);
    row.text = [row.path, row.why, row.sha256].join("\n").toLowerCase();
  });

  // Text is only ever set as text: nothing in here parses markup.
  function make(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key in node) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== ""));
    return node;
  }

  function why(row) {
    const several = row.policies.length > 1;
    const broken = row.findings.filter((finding) => finding[2]).map((finding) => {
      const rule = rules[finding[0]];
      return rule.title + (several ? " in " + policies[rule.policy] : "") + (finding[3] ? "" : " (the closest rule)");
    });
    return [broken.join(", "), row.reason, ...(row.caveats || []), row.accepted, row.rationale].filter(Boolean).join(" – ");
  }

  function bar(score, threshold, over) {
    const fill = make("i"), mark = make("b");
    fill.style.width = (100 * score).toFixed(1) + "%";
    const node = make("span", { className: over ? "bar over" : "bar", ariaHidden: "true" }, fill);
    if (threshold !== undefined) {
      mark.style.left = (100 * threshold).toFixed(1) + "%";
      node.append(mark);
    }
    return node;
  }

  function line(row) {
    const opened = state.open.has(row.number);
    const button = make("button", { type: "button", className: "open" }, row.path);
    button.setAttribute("aria-expanded", String(opened));
    const score = scored ? make("td", { className: "score" }) : "";
    if (row.score !== undefined) {
      const over = row.outcome === "violates";
      score.append(row.score.toFixed(3), bar(row.score, undefined, over));
    }
    const node = make("tr", {},
      make("td", {}, button),
      make("td", {}, make("span", { className: "badge " + row.status }, row.status)),
      score,
      make("td", { className: "why small" }, make("div", {}, row.why)));
    button.addEventListener("click", () => {
      if (state.open.delete(row.number)) node.nextElementSibling.remove();
      else {
        state.open.add(row.number);
        node.after(details(row));
      }
      button.setAttribute("aria-expanded", String(state.open.has(row.number)));
    });
    return node;
  }

  function thumbnail(row) {
    if (!row.thumbnail) return null;
    const button = make("button", { type: "button", className: "thumbnail", title: "blurred until clicked" },
      make("img", { src: row.thumbnail, alt: "the image, blurred until clicked" }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    });
    return button;
  }

  function details(row) {
    const left = make("div", {}, thumbnail(row) || "");
    const right = make("div", {});
    if (row.findings.length) left.append(make("h3", {}, "Findings"));
    for (const [number, score, violates, attributed, action] of row.findings) {
      const rule = rules[number];
      const verdict = !violates ? "closest, does not break it"
        : attributed ? "breaks it: " + action
        : "closest rule: the image reaches the policy's threshold, and no rule its own";
      left.append(make("div", { className: "finding" },
        make("b", {}, rule.title), " ", score === null ? "" : score.toFixed(3) + " ",
        make("span", { className: "small" }, verdict),
        score === null ? "" : bar(score, rule.threshold, violates)));
      right.append(make("div", { className: violates ? "rule broken" : "rule" }, rule.text.join("\n")));
    }
    if (right.children.length) right.prepend(make("h3", {}, "What the policy says"));
    const list = make("dl", {});
    const facts = [["model says", row.rationale], ["reason", row.reason], ["baseline", row.accepted],
      ["outcome", row.outcome], ["policies", row.policies.map((place) => policies[place]).join(", ")],
      ["notes", [...(row.caveats || []), ...(row.notes || [])].join("; ")], ["sha256", row.sha256]];
    for (const [name, value] of facts) {
      if (value) list.append(make("dt", {}, name), make("dd", {}, value));
    }
    left.append(list);
    const cell = make("td", { colSpan: scored ? 4 : 3 }, make("div", { className: "columns" }, left, right));
    return make("tr", { className: "details" }, cell);
  }

  const COMPARE = {
    order: (a, b) => a.number - b.number,
    path: (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0),
    status: (a, b) => SEVERITY[a.status] - SEVERITY[b.status] || (b.score ?? -1) - (a.score ?? -1),
    score: (a, b) => (a.score ?? -1) - (b.score ?? -1),
  };

  function search() {
    const statuses = new Set([...document.querySelectorAll("[name=status]:checked")].map((box) => box.value));
    const text = at("search").value.trim().toLowerCase();
    const policy = at("policy").value, rule = at("rule").value;
    state.matches = rows.filter((row) =>
      (!statuses.size || statuses.has(row.status))
      && (!policy || row.policies.includes(Number(policy)))
      && (!rule || row.findings.some((finding) => finding[2] && finding[0] === Number(rule)))
      && (!text || row.text.includes(text)));
    const way = state.down ? -1 : 1;
    state.matches.sort((a, b) => way * COMPARE[state.sort](a, b) || a.number - b.number);
    state.page = 0;
    state.open.clear();
    show();
  }

  function show() {
    const pages = Math.max(1, Math.ceil(state.matches.length / PAGE));
    const first = state.page * PAGE;
    at("body").replaceChildren(...state.matches.slice(first, first + PAGE).flatMap((row) =>
      state.open.has(row.number) ? [line(row), details(row)] : [line(row)]));
    const all = rows.length.toLocaleString("en"), some = state.matches.length.toLocaleString("en");
    at("count").textContent = state.matches.length === rows.length ? all + " images" : some + " of " + all + " images";
    at("page").textContent = "page " + (state.page + 1) + " of " + pages;
    at("previous").disabled = state.page === 0;
    at("next").disabled = state.page + 1 >= pages;
    document.querySelector(".pages").hidden = pages === 1;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const on = button.dataset.sort === state.sort;
      button.parentElement.setAttribute("aria-sort", on ? (state.down ? "descending" : "ascending") : "none");
    }
  }

  function order(key, down) {
    state.sort = key;
    state.down = down;
    at("sort").value = key;
    search();
  }

  function turn(by) {
    state.page += by;
    show();
    at("images").scrollIntoView();
  }

  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["input", "change"]) {
    at("filters").addEventListener(kind, (event) => {
      if (event.target.id === "sort") order(event.target.value, event.target.value === "score");
      else search();
    });
  }
  for (const button of document.querySelectorAll("[data-sort]")) {
    const key = button.dataset.sort;
    button.addEventListener("click", () =>
      order(key, state.sort === key ? !state.down : key === "score"));
  }
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    if (event.key === "/") at("search").focus();
    else if (event.key === "j" || event.key === "k") {
      const buttons = [...document.querySelectorAll(".open")];
      const place = buttons.indexOf(document.activeElement) + (event.key === "j" ? 1 : -1);
      buttons[Math.max(0, Math.min(buttons.length - 1, place))]?.focus();
    } else return;
    event.preventDefault();
  });

  // What matters first: without anything wrong, in the order of the run.
  order(rows.some((row) => row.status !== "passed") ? "status" : "order", false);
})();
