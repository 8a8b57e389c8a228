// The page of `policyguard serve`: a policy in an editor, images that are judged by it, and what an edit changes.
// Texts of policies, models and files go in as text, never as markup.
import { createEditor } from "/page/editor.js";

const by = (id) => document.getElementById(id);
const state = { name: null, saved: "", hash: "", outline: null, images: new Map(), chosen: null, threshold: null };
let config, editor;
let reading = 0; // which reading of the text is the latest
let judging = null; // aborts the judging of an older text
let due = 0;
let key = ""; // of an operator, where the service asks for one; kept in this page alone

function call(path, options = {}) {
  const headers = { "X-PolicyGuard": "page", ...(key && { Authorization: `Bearer ${key}` }) };
  return fetch(`/page-api/${path}`, { ...options, headers });
}

async function ask(path, body, options = {}) {
  const posted = body === undefined ? {} : { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body) };
  const answer = await call(path, { ...options, ...posted });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(data.error?.message ?? `the service answers ${answer.status}`), { error: data.error });
  return data;
}

function say(text) {
  by("status").textContent = text;
}

function element(tag, { text, ...more } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), more);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

const shown = (number) => (number === null || number === undefined ? "–" : number.toFixed(3));

function called({ outcome, action, score }) {
  return [element("span", { className: `action ${action}`, text: action }), ` ${outcome} ${shown(score)}`];
}

// The policy.

async function load(name) {
  const { text, hash } = await ask(`policies/${name.split("/").map(encodeURIComponent).join("/")}`);
  // The editor works with plain line ends; what is saved has the file's own.
  const end = text.includes("\r\n") ? "\r\n" : "\n";
  Object.assign(state, { name, saved: text.replaceAll("\r\n", "\n"), end, hash, outline: null, threshold: null });
  const { file } = config.policies.find((each) => each.name === name);
  editor.load(state.saved);
  by("edit-hint").textContent = `${file ? `${file}.` : "A packaged policy: it can be tried here, not saved."} Ctrl+Space completes. Tab leaves the editor; Ctrl+] indents.`;
  location.hash = encodeURIComponent(name);
  await read();
}

function edited() {
  clearTimeout(due);
  due = setTimeout(read, 250);
}

async function read() {
  const turn = ++reading;
  const text = editor.text();
  const file = config.policies.find((each) => each.name === state.name).file;
  by("revert").disabled = text === state.saved;
  by("save").disabled = true;
  let answer;
  try {
    answer = await ask("read", { policy: state.name, text });
  } catch (error) {
    answer = { problems: [{ severity: "error", message: error.message, line: 1, column: 1 }], policy: null };
  }
  if (turn !== reading) return;
  state.problems = answer.problems;
  state.usable = Boolean(answer.policy);
  state.outline = answer.policy ?? state.outline;
  state.loosened = answer.loosened ?? [];
  editor.show(answer.problems.filter(({ file }) => !file));
  by("problems").replaceChildren(
    ...answer.problems.map((problem) =>
      element("li", {}, element("button", {
        type: "button",
        className: problem.severity,
        text: `${problem.severity}, ${problem.file ? "" : `line ${problem.line}: `}${problem.message}`,
        onclick: () => editor.go(problem.line, problem.column),
      })),
    ),
  );
  by("problems-title").textContent = answer.problems.length ? `Remarks (${answer.problems.length})` : "No remarks";
  const changes = answer.changes ?? [];
  by("changes").replaceChildren(...changes.map((change) => element("li", { text: change })));
  by("changes-title").textContent = `Changes against the saved policy (${changes.length})`;
  const asks = answer.problems.some(({ reason }) => reason);
  by("save").disabled = text === state.saved || !config.write || !file || (!answer.policy && !asks);
  if (!answer.policy) {
    say("The policy cannot be used as it stands: see the remarks. The images show the last one that could.");
    return;
  }
  by("reads").textContent = answer.reads?.texts.join("\n\n----\n\n") ?? "";
  by("reads-title").textContent = `What the model reads (${answer.reads?.dialect}${answer.reads?.tokens ? `, about ${answer.reads.tokens} tokens` : ""})`;
  state.text = text;
  state.threshold = null;
  slide();
  await judge();
}

// The images.

async function judge(ids = [...state.images.keys()]) {
  judging?.abort();
  const mine = (judging = new AbortController());
  if (!ids.length || !state.outline) return count();
  const body = { policy: state.name, text: state.text, threshold: state.threshold };
  let asked = 0;
  for (let at = 0; at < ids.length; at += config.batch) {
    const batch = ids.slice(at, at + config.batch);
    say(`Judging ${Math.min(at + batch.length, ids.length)} of ${ids.length} images…`);
    try {
      const answer = await ask("judge", { ...body, images: batch }, { signal: mine.signal });
      asked += answer.asked;
      for (const image of answer.images) Object.assign(state.images.get(image.id) ?? {}, image);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.error?.code === "image_gone") {
        for (const id of batch) await again(id);
      }
      say(error.message);
      return;
    }
    if (mine.signal.aborted) return;
    for (const id of batch) draw(id);
    count();
  }
  slide();
  say(`${ids.length} ${ids.length === 1 ? "image" : "images"} judged; ${asked ? `the model was asked for ${asked} ${asked === 1 ? "verdict" : "verdicts"}` : "the model was not asked"}. ${by("flips-title").textContent}`);
}

/** The service let go of a dropped image: hand it over again, for the next judging. */
async function again(id) {
  const file = state.images.get(id)?.file;
  if (file) await ask(`images?name=${encodeURIComponent(file.name)}`, file).catch(() => {});
}

async function add(files) {
  const ids = [];
  for (const file of files) {
    try {
      const { id, name } = await ask(`images?name=${encodeURIComponent(file.name)}`, file);
      if (!state.images.has(id)) place(id, name, file);
      ids.push(id);
    } catch (error) {
      say(`${file.name}: ${error.message}`);
    }
  }
  if (ids.length) {
    choose(ids[0]);
    await judge(ids);
  }
}

/** The small copy of an image, as it is judged; null if there is none. */
async function copyOf(id) {
  const answer = await call(`images/${id}`);
  return answer.ok ? URL.createObjectURL(await answer.blob()) : null;
}

const wanted = new WeakMap(); // what to do once an image is scrolled into sight
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    wanted.get(target)();
  }
});

function place(id, name, file) {
  const picture = element("img", { alt: "" });
  let made;
  const copy = () => (made ??= copyOf(id).catch(() => null));
  wanted.set(picture, async () => {
    const url = await copy();
    if (url) picture.src = url;
    else picture.replaceWith(element("span", { className: "no-image", text: "cannot be shown" }));
  });
  seen.observe(picture);
  const verdict = element("div", { text: "…" });
  const item = element("li", { role: "option", id: `image-${id}`, tabIndex: -1 }, picture, element("div", { text: name }), verdict);
  item.setAttribute("aria-selected", "false");
  item.onclick = () => choose(id);
  item.onfocus = () => choose(id);
  by("grid").append(item);
  state.images.set(id, { id, name, file, item, verdict, copy });
  if (state.images.size === 1) item.tabIndex = 0;
}

function draw(id) {
  const { before, after, changed, item, verdict } = state.images.get(id);
  if (!after) return;
  const flip = changed ? [element("div", { className: "flip", text: `was ${before.action}, ${before.outcome}` })] : [];
  verdict.replaceChildren(...called(after), ...flip);
  item.classList.toggle("changed", changed);
  item.hidden = by("only-changed").checked && !changed;
  if (id === state.chosen) detail();
}

/** How many images change, in all and by rule. */
function count() {
  const images = [...state.images.values()].filter(({ after }) => after);
  const changed = images.filter(({ changed }) => changed);
  const weaker = changed.filter(({ direction }) => direction < 0).length;
  const stronger = changed.filter(({ direction }) => direction > 0).length;
  by("flips-title").textContent = !state.images.size
    ? "No images yet"
    : `${changed.length} of ${images.length} images change` + (changed.length ? `: ${weaker} milder, ${stronger} stricter` : "");
  const rules = new Map();
  for (const { rules: names, direction } of changed) {
    for (const name of names.length ? names : ["(no rule)"]) {
      const row = rules.get(name) ?? [0, 0, 0];
      row[direction < 0 ? 0 : direction > 0 ? 1 : 2]++;
      rules.set(name, row);
    }
  }
  by("by-rule").hidden = !rules.size;
  by("by-rule").tBodies[0].replaceChildren(
    ...[...rules].sort().map(([name, row]) =>
      element("tr", {}, element("th", { scope: "row", text: name }), ...row.map((number) => element("td", { text: String(number) })))),
  );
}

function choose(id) {
  const before = state.images.get(state.chosen)?.item;
  before?.setAttribute("aria-selected", "false");
  for (const { item } of state.images.values()) item.tabIndex = -1;
  state.chosen = id;
  const { item } = state.images.get(id);
  item.setAttribute("aria-selected", "true");
  item.tabIndex = 0;
  by("kept").textContent = "";
  by("kept-entry").hidden = true;
  detail();
}

function detail() {
  const { id, name, before, after, changed, copy } = state.images.get(state.chosen);
  by("detail-title").textContent = name;
  by("detail-empty").hidden = true;
  by("detail").hidden = false;
  const picture = by("detail-image");
  if (picture.dataset.id !== id) {
    picture.dataset.id = id;
    picture.alt = `${name}, as it is judged`;
    picture.hidden = true;
    copy().then((url) => {
      if (picture.dataset.id !== id || !url) return;
      picture.src = url;
      picture.hidden = false;
    });
  }
  by("keep-button").disabled = !after || !config.policies.find((each) => each.name === state.name).file;
  if (!after) return by("detail-verdict").replaceChildren("…");
  const threshold = state.threshold ?? state.outline?.threshold ?? 0.5;
  by("detail-verdict").replaceChildren(...called(after), ` (threshold ${threshold.toFixed(2)})`, ...(after.reason ? [`: ${after.reason}`] : []));
  by("mark-score").hidden = after.score === null;
  by("mark-score").style.setProperty("--at", `${(after.score ?? 0) * 100}%`);
  by("mark-threshold").style.setProperty("--at", `${threshold * 100}%`);
  const own = new Map((state.outline?.rules ?? []).map((rule) => [rule.id, rule.threshold]));
  by("findings").hidden = !after.findings.length;
  by("detail-findings-empty").hidden = after.findings.length > 0;
  by("findings").tBodies[0].replaceChildren(
    ...after.findings.map((finding) =>
      element("tr", {},
        element("th", { scope: "row", text: `${finding.title} (${finding.rule})` }),
        element("td", { text: shown(finding.score) }),
        element("td", { text: (own.get(finding.rule) ?? threshold).toFixed(2) }),
        element("td", { text: finding.violates ? (finding.attributed ? "yes" : "yes, closest") : "no" }),
        element("td", { className: finding.action, text: finding.action }),
      )),
  );
  by("detail-before").replaceChildren("Under the saved policy: ", ...called(before), ...(changed ? [element("span", { className: "flip", text: " – this image changes" })] : []));
  const broken = after.findings.filter(({ violates }) => violates).map(({ rule }) => rule);
  by("expected").value = after.outcome === "error" ? "violates" : after.outcome;
  by("keep-rules-names").textContent = broken.join(", ") || "none";
  by("keep-rules").checked = broken.length > 0;
}

by("grid").onkeydown = (event) => {
  const open = [...state.images.values()].filter(({ item }) => !item.hidden);
  const at = open.findIndex(({ id }) => id === state.chosen);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -at, End: open.length - 1 - at }[event.key];
  if (step === undefined || !open.length) return;
  event.preventDefault();
  open[Math.min(open.length - 1, Math.max(0, at + step))].item.focus();
};

by("only-changed").onchange = () => {
  for (const id of state.images.keys()) draw(id);
};

// The threshold.

const withScores = by("threshold-hint").textContent;
const withoutScores =
  "This model gives ratings without scores. A threshold changes nothing then, and each edit asks it anew about all images, under the saved policy too: a hosted model is paid each time.";

/** Whether the model has judged images, and given no score for any. */
function isWithoutScores() {
  const judged = [...state.images.values()].flatMap(({ after }) => (["violates", "complies"].includes(after?.outcome) ? [after] : []));
  return judged.length > 0 && judged.every(({ score }) => score === null);
}

function slide() {
  const value = state.threshold ?? state.outline.threshold;
  const moved = state.threshold !== null && state.threshold !== state.outline.threshold;
  by("threshold").disabled = isWithoutScores();
  by("threshold-hint").textContent = by("threshold").disabled ? withoutScores : withScores;
  by("threshold").value = value;
  by("threshold-value").textContent = `${value.toFixed(2)}${moved ? ` (the policy says ${state.outline.threshold.toFixed(2)})` : ""}`;
  by("put-threshold").disabled = by("reset-threshold").disabled = !moved;
}

by("threshold").oninput = () => {
  state.threshold = Number(by("threshold").value);
  slide();
  clearTimeout(due);
  due = setTimeout(judge, 120);
};

by("reset-threshold").onclick = () => {
  state.threshold = null;
  slide();
  judge();
  by("threshold").focus();
};

by("put-threshold").onclick = () => {
  const text = withThreshold(editor.text(), state.threshold);
  if (text === null) return say("Write it by hand: `defaults:` is not written line by line.");
  editor.replace(text);
  by("threshold").focus();
};

/** `text` with `threshold` under `defaults:`; null where that is not written line by line. */
function withThreshold(text, threshold) {
  const lines = text.split("\n");
  const at = lines.findIndex((line) => /^defaults\s*:/.test(line));
  if (at < 0) return `${text.trimEnd()}\n\ndefaults:\n  threshold: ${threshold}\n`;
  if (!/^defaults\s*:\s*(#.*)?$/.test(lines[at])) return null;
  const inside = lines.slice(at + 1).findIndex((line) => /^\S/.test(line));
  const end = inside < 0 ? lines.length : at + 1 + inside;
  const own = lines.findIndex((line, n) => n > at && n < end && /^\s+threshold\s*:/.test(line));
  if (own >= 0) lines[own] = lines[own].replace(/:\s*[^\s#]+/, `: ${threshold}`);
  else lines.splice(at + 1, 0, `${/^\s+/.exec(lines[at + 1] ?? "")?.[0] ?? "  "}threshold: ${threshold}`);
  return lines.join("\n");
}

// What is written.

by("keep").onsubmit = async (event) => {
  event.preventDefault();
  const { after } = state.images.get(state.chosen);
  const findings = after.findings.filter(({ violates }) => violates).map(({ rule }) => rule);
  const outcome = by("expected").value;
  const exactly = by("keep-rules").checked && outcome === "violates";
  try {
    const { file, entry, written } = await ask("keep", {
      policy: state.name, image: state.chosen, outcome, note: by("note").value, findings: exactly ? findings : null,
    });
    by("kept").textContent = written ? `Kept in ${file}` : `The service was started without --write. For ${file}:`;
    by("kept-entry").textContent = entry;
    by("kept-entry").hidden = written;
  } catch (error) {
    by("kept").textContent = error.message;
  }
};

by("save").onclick = () => {
  const fields = by("saving-fields");
  const asking = (state.problems ?? []).filter(({ reason }) => reason);
  if (asking.length) {
    by("saving-why").textContent = "This can loosen what the base forbids. Say why; every verdict will carry the reason.";
    const places = new Map(asking.map((problem) => [problem.reason.line, problem]));
    fields.replaceChildren(...[...places].map(([line, { message }], number) =>
      element("p", {},
        element("label", { htmlFor: `reason-${number}`, text: message.replace(/: this can loosen or reword .*/s, "") }),
        element("input", { type: "text", id: `reason-${number}`, name: String(line), required: true, maxLength: 1000 }))));
  } else if (state.loosened.length) {
    by("saving-why").textContent = "This can loosen what the saved policy forbids:";
    fields.replaceChildren(
      element("ul", {}, ...state.loosened.map((text) => element("li", { text }))),
      element("p", {}, element("label", {}, element("input", { type: "checkbox", required: true, id: "meant" }), " This is meant")));
  } else {
    by("saving-why").textContent = "Nothing in it loosens what the saved policy forbids.";
    fields.replaceChildren();
  }
  by("saving").returnValue = "";
  by("saving").showModal();
};

by("saving").onclose = async () => {
  if (by("saving").returnValue !== "save") return;
  const reasons = [...by("saving-fields").querySelectorAll("input[type=text]")];
  if (reasons.length) {
    const lines = editor.text().split("\n");
    const places = new Map(state.problems.filter(({ reason }) => reason).map(({ reason }) => [reason.line, reason.indent]));
    for (const { name, value } of reasons.sort((a, b) => Number(b.name) - Number(a.name))) {
      lines.splice(Number(name) - 1, 0, `${" ".repeat(places.get(Number(name)))}weakens: ${JSON.stringify(value)}`);
    }
    editor.replace(lines.join("\n"));
    clearTimeout(due);
    await read();
    if (!state.usable) return say("The policy cannot be used yet: see the remarks.");
  }
  const text = editor.text();
  try {
    const { hash } = await ask("save", {
      policy: state.name, text: text.replaceAll("\n", state.end), hash: state.hash, loosens: state.loosened,
    });
    Object.assign(state, { saved: text, hash });
    await read();
    say("Saved.");
  } catch (error) {
    say(`Not saved: ${error.message}`);
  }
};

by("revert").onclick = () => {
  editor.replace(state.saved);
  editor.view.focus();
};

// Images come in by the button or by dropping.

by("add").onclick = () => by("files").click();
by("files").onchange = async () => {
  await add([...by("files").files]);
  by("files").value = "";
};
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    by("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", () => by("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  by("drop").classList.remove("over");
  add([...event.dataTransfer.files]);
});

// What shadows said on live traffic.

async function shadows() {
  const { shadows: all } = await ask("shadows");
  by("shadows").hidden = !all.length;
  by("shadow-list").replaceChildren(...all.map(({ policy, stats, recent, fingerprint, error }) => {
    const rows = recent.filter(({ changed }) => changed).map(({ image_sha256, before, after, rules }) =>
      element("tr", {},
        element("td", { text: image_sha256.slice(0, 16) }),
        element("td", {}, ...called(before)),
        element("td", {}, ...called(after)),
        element("td", { text: rules.join(", ") })));
    const byRule = Object.entries(stats.rules).map(([rule, number]) => `${rule} ${number}`).join(", ");
    return element("div", {},
      element("h3", { text: `${stats.name} beside ${policy}` }),
      element("p", { hidden: !error, text: `Its file does not load, and it stays as it was: ${error}` }),
      element("p", { text: `With fingerprint ${fingerprint}: ${stats.compared} of ${stats.sampled} compared, ${stats.changed} differ (${stats.weaker} milder, ${stats.stronger} stricter); ${stats.dropped} dropped, ${stats.failed} failed. ${byRule ? `By rule: ${byRule}.` : ""}` }),
      element("table", { hidden: !rows.length },
        element("caption", { text: "The last that differ, by hash; no image is kept" }),
        element("thead", {}, element("tr", {}, ...["Image", "Answer", "Shadow", "Rules"].map((text) => element("th", { scope: "col", text })))),
        element("tbody", {}, ...rows)));
  }));
  if (all.length) setTimeout(shadows, 5000);
}

async function start() {
  config = await ask("start");
  editor = createEditor({ parent: by("editor"), label: "The policy as YAML", describedBy: "edit-hint", schema: config.schema, nonce: document.querySelector("meta[name=style-nonce]").content, changed: edited });
  by("model").textContent = `Model: ${config.model}${config.write ? "" : " · nothing is written (no --write)"}`;
  by("policy").replaceChildren(...config.policies.map(({ name, title, error }) =>
    element("option", { value: name, text: `${name}: ${title}${error ? " (does not load)" : ""}` })));
  by("policy").onchange = async () => {
    if (editor.text() !== state.saved && !confirm("Leave this edit? It is not saved.")) {
      by("policy").value = state.name;
      return;
    }
    await load(by("policy").value);
  };
  window.onbeforeunload = (event) => {
    if (editor.text() !== state.saved) event.preventDefault();
  };
  for (const { id, name } of config.images) place(id, name);
  if (config.left_out) by("grid-hint").textContent += ` The first ${config.images.length} images of ${config.folder}; ${config.left_out} more are left out.`;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = config.policies.find(({ name }) => name === wanted) ?? config.policies[0];
  by("policy").value = first.name;
  await load(first.name);
  if (state.images.size) choose([...state.images.keys()][0]);
  document.body.dataset.ready = "yes";
  await shadows();
}

async function begin() {
  try {
    await start();
  } catch (error) {
    say(error.message);
    if (["key_wrong", "not_operator", "rate"].includes(error.error?.code)) by("asking").showModal();
  }
}

by("asking").onclose = () => {
  key = by("key").value.trim();
  begin();
};

begin();
