"use strict";
// The error browser and the tables that sort. It reads the JSON inside the page and loads nothing. What it shows stands in the page's
// address (#model=birq-0&find=word&utt=ID), so that a view can be sent to somebody.
(() => {
const $ = id => document.getElementById(id);

// ---- tables that sort by a click on a head

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const h of heads) h.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => {
        const text = row.cells[column].textContent.trim(), number = parseFloat(text.replaceAll(",", ""));
        return Number.isNaN(number) || column === 0 ? text : number;
      };
      const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(value(a), value(b)));
      table.tBodies[0].append(...rows);
    });
  });
}

// ---- the error browser

const data = JSON.parse($("b-data").textContent), AT_ONCE = 50;
const count = (text, letters) => { let n = 0; for (const c of text) if (letters.includes(c)) n++; return n; };
const words = data.references.map(text => text ? text.split(" ").length : 0);
const errors = data.said.map(one => one.kinds.map((k, i) => one.hypotheses[i] === null ? null : count(k, "SDI")));
const number = n => n.toLocaleString("en");
const counted = (n, unit) => `${number(n)} ${unit}${n === 1 ? "" : "s"}`;

const fields = { model: $("b-model"), beside: $("b-beside"), order: $("b-order"), speaker: $("b-speaker"), find: $("b-find"), wrong: $("b-wrong"), heard: $("b-heard") };
for (const [i, model] of data.models.entries()) {
  fields.model.add(new Option(model.title, model.id));
  fields.beside.add(new Option(model.title, model.id));
}
for (const speaker of data.speakers) fields.speaker.add(new Option(speaker, speaker));
const chosen = field => data.models.findIndex(m => m.id === field.value);

let matches = [], shown = 0, linked = null;

function read() {
  const asked = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  for (const [name, field] of Object.entries(fields)) {
    if (!field) continue;
    if (field.type === "checkbox") field.checked = asked.get(name) === "1";
    else if (field.type === "search") field.value = asked.get(name) ?? "";
    else field.value = [...field.options].some(o => o.value === asked.get(name)) ? asked.get(name) : field.options[0].value;
  }
  linked = data.ids.includes(asked.get("utt")) ? asked.get("utt") : null;
  return asked.size > 0;
}

function address(id) {
  const asked = new URLSearchParams();
  for (const [name, field] of Object.entries(fields)) {
    if (!field) continue;
    const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
    if (value && !(field.options && value === field.options[0].value)) asked.set(name, value);
  }
  if (id) asked.set("utt", id);
  return asked.size ? "#" + asked : "#errors";
}

function aligned(model, i) {
  const row = document.createElement("div");
  row.className = "words";
  const said = data.said[model].hypotheses[i];
  if (said === null) { row.textContent = "not decoded"; return row; }
  const left = data.references[i] ? data.references[i].split(" ") : [], right = said ? said.split(" ") : [];
  let r = 0, h = 0;
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", `reference: ${data.references[i] || "nothing"}; hypothesis: ${said || "nothing"}`);
  for (const kind of data.said[model].kinds[i]) {
    const word = document.createElement("span");
    word.className = kind === "=" ? "w" : "w w" + kind;
    for (const [side, text] of [["r", kind === "I" ? "+" : left[r++]], ["h", kind === "D" ? "×" : right[h++]]]) {
      const part = document.createElement("i");
      part.className = side;
      part.textContent = text;
      part.setAttribute("aria-hidden", "true");
      word.append(part);
    }
    row.append(word, " ");
  }
  return row;
}

function sample(one) {
  const box = document.createElement("div");
  box.className = "sample";
  const { rows, columns, grey } = one.picture, bytes = Uint8Array.from(atob(grey), c => c.charCodeAt(0));
  const canvas = document.createElement("canvas");
  canvas.width = columns; canvas.height = rows;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "log-mel spectrogram, low frequencies below");
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let i = 0; i < bytes.length; i++) {
    const v = bytes[i] / 255; // dark blue, orange, white: readable in grey as well
    image.data.set([255 * Math.min(1, 1.6 * v), 255 * v * v, 255 * (0.25 * (1 - v) + 0.75 * Math.max(0, 4 * v - 3) + 0.2 * v), 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  box.append(canvas);
  if (one.audio) {
    const player = document.createElement("audio");
    player.controls = true;
    player.preload = "metadata";
    player.src = "data:audio/mpeg;base64," + one.audio;
    box.append(player);
  } else {
    const note = document.createElement("span");
    note.className = "note";
    note.textContent = "The recording was not there when this page was made.";
    box.append(note);
  }
  return box;
}

function utterance(i, model, beside) {
  const box = document.createElement("article"), who = document.createElement("div"), link = document.createElement("a");
  box.className = "utt";
  who.className = "who";
  link.href = address(data.ids[i]);
  link.textContent = data.ids[i];
  link.title = "address of this utterance";
  const n = errors[model][i];
  const tally = ["S", "D", "I"].map(k => [count(data.said[model].kinds[i], k), k]).filter(([m]) => m).map(([m, k]) => `${m} ${k}`).join(", ");
  const rate = words[i] ? `${Math.round(100 * n / words[i])} % WER` : "empty reference";
  who.append(link, ` · speaker ${data.speakers[data.speaker[i]]} · ${data.seconds[i].toFixed(1)} s · ${counted(n ?? 0, "error")} in ${counted(words[i], "word")}`
    + `${tally && ` (${tally})`} · ${rate}`);
  box.append(who, aligned(model, i));
  if (beside >= 0 && beside !== model) {
    const label = document.createElement("div");
    label.className = "model";
    label.textContent = `${data.models[beside].title}: ${counted(errors[beside][i] ?? 0, "error")}`;
    box.append(label, aligned(beside, i));
  }
  if (data.samples[data.ids[i]]) box.append(sample(data.samples[data.ids[i]]));
  if (data.ids[i] === linked) { box.classList.add("linked"); box.tabIndex = -1; }
  return box;
}

function more() {
  const model = chosen(fields.model), beside = chosen(fields.beside);
  $("b-list").append(...matches.slice(shown, shown + AT_ONCE).map(i => utterance(i, model, beside)));
  shown = Math.min(shown + AT_ONCE, matches.length);
  const left = matches.length - shown;
  $("b-more").hidden = left === 0;
  $("b-more").textContent = `Show ${Math.min(AT_ONCE, left)} more of ${number(left)}`;
}

function show() {
  const model = chosen(fields.model), beside = chosen(fields.beside), other = beside >= 0 && beside !== model;
  for (const option of fields.order.options) if (["gain", "loss"].includes(option.value)) option.disabled = !other;
  if (!other && ["gain", "loss"].includes(fields.order.value)) fields.order.value = "errors";
  const find = fields.find.value.trim().toLowerCase(), speaker = fields.speaker.value;
  const has = text => text !== null && text.toLowerCase().includes(find);
  matches = [...data.ids.keys()].filter(i => errors[model][i] !== null
    && (!speaker || data.speakers[data.speaker[i]] === speaker)
    && (!fields.wrong.checked || errors[model][i])
    && (!fields.heard?.checked || data.samples[data.ids[i]])
    && (!find || has(data.ids[i]) || has(data.references[i]) || has(data.said[model].hypotheses[i])));
  const e = errors[model], o = other ? errors[beside] : null;
  const keys = { errors: i => -e[i], rate: i => -(words[i] ? e[i] / words[i] : e[i] ? Infinity : 0), gain: i => e[i] - (o?.[i] ?? e[i]),
    loss: i => (o?.[i] ?? e[i]) - e[i], long: i => -data.seconds[i], id: () => 0 };
  const key = keys[fields.order.value];
  matches.sort((a, b) => key(a) - key(b) || (data.ids[a] < data.ids[b] ? -1 : 1));
  if (linked) { // first, whatever the rest is
    const i = data.ids.indexOf(linked);
    matches = [i, ...matches.filter(m => m !== i)];
  }
  const [n, w] = matches.reduce(([a, b], i) => [a + (e[i] ?? 0), b + words[i]], [0, 0]);
  let text = `${number(matches.length)} of ${counted(data.ids.length, "utterance")}, ${counted(n, "error")} in ${counted(w, "word")}`;
  if (w) text += `, ${(100 * n / w).toFixed(1)} % WER`;
  if (other) text += `; beside: ${number(matches.reduce((a, i) => a + (o[i] ?? 0), 0))} errors`;
  $("b-count").textContent = text + ".";
  $("b-list").replaceChildren();
  shown = 0;
  more();
}

function changed() {
  linked = null;
  history.replaceState(null, "", address());
  show();
}

$("b-more").addEventListener("click", more);
for (const field of Object.values(fields)) field?.addEventListener(field.type === "search" ? "input" : "change", changed);
function arrive() {
  const asked = read();
  show();
  if (linked) { const box = document.querySelector(".linked"); box.scrollIntoView({ block: "center" }); box.focus({ preventScroll: true }); }
  else if (asked) $("errors").scrollIntoView();
}
addEventListener("hashchange", () => { if (location.hash.includes("=")) arrive(); });
$("browser").hidden = false;
$("worst").hidden = true;
arrive();
})();
