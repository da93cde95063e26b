"use strict";
// The live page: asks for state.json every two seconds and draws it. It changes nothing.
(() => {
const $ = id => document.getElementById(id);
const PALETTE = ["#3b82d6", "#d9660a", "#2e9e5b", "#9b5de0", "#d6457f", "#1798a5", "#a3703a", "#78828f"]; // the report's
const TITLES = { loss: "Loss", masked_accuracy: "Masked accuracy", enhanced_perplexity: "Perplexity of the enhanced codes",
  anchor_perplexity: "Perplexity of the anchoring codes", label_fidelity: "Label fidelity", dev_loss: "Dev loss, nats per character", dev_wer: "Dev WER" };
const STAGES = { pretrain: "pre-training", finetune: "fine-tuning" };
const EVERY_MS = 2000;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function drawn(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function duration(s) {
  if (s === null || s === undefined) return "";
  s = Math.round(s);
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

const round = v => Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 1 ? v.toFixed(2) : v.toFixed(3);
const colour = (runs, run) => PALETTE[runs.indexOf(run) % PALETTE.length];

function chart(title, series, runs) {
  const width = 520, height = 220, left = 48, bottom = 24, top = 8, right = 10;
  const box = element("figure", undefined, { class: "chart" });
  box.append(element("h3", title));
  const steps = series.flatMap(s => s.points.map(p => p[0])), values = series.flatMap(s => s.points.map(p => p[1]));
  const last = Math.max(...steps, 1), low = Math.min(...values), high = Math.max(...values), range = high - low || Math.abs(high) || 1;
  const x = step => left + (width - left - right) * step / last, y = v => top + (height - top - bottom) * (1 - (v - low) / range);
  const said = series.map(s => `${s.run}: ${round(s.points.at(-1)[1])} at step ${s.points.at(-1)[0]}`).join("; ");
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${said}` });
  for (const share of [0, 0.5, 1]) {
    const v = low + share * range;
    svg.append(drawn("line", { x1: left, x2: width - right, y1: y(v), y2: y(v) }), drawn("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, round(v)));
  }
  svg.append(drawn("text", { x: left, y: height - 6 }, "0"), drawn("text", { x: width - right, y: height - 6, "text-anchor": "end" }, `step ${last}`));
  for (const s of series) {
    const path = s.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    svg.append(drawn("path", { d: s.points.length > 1 ? path : `${path}h0.1`, stroke: colour(runs, s.run), "stroke-linecap": "round" }));
  }
  box.append(svg);
  const legend = element("p", undefined, { class: "legend" });
  for (const s of series) {
    const one = element("span");
    one.append(element("span", "", { class: "dot", style: `--c:${colour(runs, s.run)}` }), `${s.run} ${round(s.points.at(-1)[1])}`);
    legend.append(one);
  }
  box.append(legend);
  return box;
}

function show(now) {
  document.title = `birq: ${now.project}`;
  $("title").textContent = now.project;
  const count = state => now.jobs.filter(j => j.state === state).length;
  const parts = ["running", "waiting", "stopped", "stale"].filter(count).map(s => `${count(s)} ${s}`);
  $("said").textContent = now.error ? now.error : `${count("done")} of ${now.jobs.length} done${parts.length ? ", " + parts.join(", ") : ""}. Looked at ${now.at}.`;
  $("pages").replaceChildren(...now.pages.flatMap((p, i) => [i ? " · " : "Finished pages: ", element("a", p, { href: "/" + p })]));

  const runs = [...new Set(now.trainings.map(t => t.run))];
  const running = new Set(now.jobs.filter(j => j.state === "running").map(j => j.name));
  const table = element("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  for (const [i, text] of ["Run", "Stage", "Step", "Share", "Left", "Hours of speech per hour"].entries()) head.append(element("th", text, i < 2 ? { class: "l" } : {}));
  const atWork = t => running.has(`${t.stage}/${t.run}`);
  for (const t of [...now.trainings].sort((a, b) => atWork(b) - atWork(a))) { // those at work first
    const row = body.insertRow(), bar = element("span", undefined, { class: "bar" }), share = t.steps ? Math.min(1, t.step / t.steps) : null;
    const name = element("td", undefined, { class: "l" });
    name.append(element("span", "", { class: "dot", style: `--c:${colour(runs, t.run)}` }), t.run);
    bar.append(element("i", "", { style: `width:${100 * (share ?? 0)}%; --c:${colour(runs, t.run)}` }));
    const progress = element("td");
    if (share !== null) progress.append(bar, `${Math.round(100 * share)} %`);
    row.append(name, element("td", STAGES[t.stage], { class: "l" }), element("td", t.steps ? `${t.step} of ${t.steps}` : `${t.step}`), progress,
      element("td", atWork(t) ? duration(t.left_s) : ""), element("td", t.speed_h_per_h ? Math.round(t.speed_h_per_h).toLocaleString("en") : ""));
  }
  const scroll = element("div", undefined, { class: "scroll" });
  scroll.append(table);
  $("progress").replaceChildren(now.trainings.length ? scroll : element("p", "No training has begun.", { class: "note" }));

  const charts = [];
  for (const stage of Object.keys(STAGES)) for (const figure of Object.keys(TITLES)) {
    const series = now.trainings.filter(t => t.stage === stage && t.curves[figure]).map(t => ({ run: t.run, points: t.curves[figure] }));
    if (series.length) charts.push(chart(`${TITLES[figure]}, ${STAGES[stage]}`, series, runs));
  }
  $("charts").replaceChildren(...charts);

  const stages = [...new Set(now.jobs.map(j => j.stage))], rows = [...new Set(now.jobs.map(j => j.name.split("/").slice(1).join("/")))];
  const heads = element("tr");
  heads.append(element("th", ""), ...stages.map(s => element("th", s, { scope: "col" })));
  $("stages").replaceChildren(heads);
  $("cells").replaceChildren(...rows.map(row => {
    const line = element("tr");
    line.append(element("th", row || "all runs", { scope: "row" }));
    for (const stage of stages) {
      const job = now.jobs.find(j => j.stage === stage && j.name.split("/").slice(1).join("/") === row), cell = element("td");
      if (job) {
        cell.append(element("span", job.state, { class: `state ${job.state}`, title: [job.name, job.detail, duration(job.seconds)].filter(Boolean).join(", ") }));
      }
      line.append(cell);
    }
    return line;
  }));
}

async function look() {
  try {
    const answer = await fetch("state.json");
    if (!answer.ok) throw new Error(`${answer.status}`);
    show(await answer.json());
  } catch (error) {
    $("said").textContent = `birq ui does not answer (${error.message}); what is shown is old.`;
  }
  setTimeout(look, EVERY_MS);
}
look();
})();
