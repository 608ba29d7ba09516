"use strict";
// The report's only script: no library, no network. All text is set as text, never as markup.
const { results, gates, curves, shifts, places, replies } = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#59636e", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const PAGE = 10;
const arms = results.arms;
const at = (id) => document.getElementById(id);
// How wide a figure is drawn: as it stands on the page, so that its letters are not shrunk on a phone.
const room = (id, most) => Math.max(300, Math.min(most, at(id).clientWidth));
const percent = (value, digits = 1) => `${(100 * (value + 1e-9)).toFixed(digits)} %`; // halves go up, in spite of floats
// Empty for what holds by definition, such as that the unsteered replies are unchanged.
const range = (low, high) => low === high ? "" : `${percent(low, 0).slice(0, -2)} to ${percent(high, 0)}`;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) made[key] = value;
  made.append(...children);
  return made;
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const AVERAGES = { dsr: "malicious requests refused", over_refusal: "harmless requests refused", utility: "answers right", identical: "harmless replies unchanged" };

function showAverages() {
  for (const arm of arms) {
    const list = element("dl");
    for (const [key, word] of Object.entries(AVERAGES)) {
      const mean = results.average_intervals[arm][key];
      if (!mean) continue;
      const interval = element("span", { className: "interval", textContent: range(mean.low, mean.high) });
      list.append(element("dt", { textContent: word }), element("dd", {}, percent(mean.value), interval));
    }
    at("tiles").append(element("div", { className: "tile" }, element("h3", { textContent: arm }), list));
  }
}

function showTests() {
  const pairs = Object.entries(results.tests).flatMap(([one, rest]) => Object.entries(rest).map(([other, found]) => [one, other, found]));
  const known = Object.keys(AVERAGES).filter((key) => pairs.some(([, , found]) => key in found));
  const head = element("tr", {}, element("th", { textContent: "arms" }), ...known.map((key) => element("th", { textContent: AVERAGES[key], className: "number" })));
  const rows = pairs.map(([one, other, found]) => element("tr", {}, element("td", { textContent: `${one} and ${other}` }), ...known.map((key) => element("td", { textContent: found[key]?.toPrecision(2) ?? "–", className: "number" }))));
  at("tests").append(element("thead", {}, head), element("tbody", {}, ...rows));
}

function mainMetric(suite) { return ["maths", "choice"].includes(suite.metric) ? "accuracy" : suite.metric; }

const WORDS = { refusal: "refused", accuracy: "right", identical: "unchanged", coherent: "coherent", win_rate: "preferred", kl: "first token's KL, nats" };
// How many of a suite's replies have no verdict, where somebody was asked for one.
const missing = (suite, arm, metric) => ({ refusal: suite.unjudged, win_rate: suite.uncompared }[metric]?.[arm] ?? 0);

function tableRow(name, suite, metric, kind) {
  const estimates = arms.map((arm) => suite.metrics[arm][metric]);
  const values = estimates.filter(Boolean).map(({ value }) => value);
  const less = metric === "kl" || (metric === "refusal" && kind !== "safety");
  const best = less ? Math.min(...values) : Math.max(...values);
  const shown = metric === "kl" ? (value) => value.toPrecision(2) : percent;
  const row = element("tr", {}, element("td", { textContent: name }), element("td", { textContent: suite.n, className: "number" }), element("td", { textContent: WORDS[metric] }));
  arms.forEach((arm, index) => {
    if (!estimates[index]) { row.append(element("td", { className: "number", textContent: "–" })); return; }
    const { value, low, high } = estimates[index];
    const p = suite.p_values[arm]?.[metric];
    const cell = element("td", { className: "number" + (value === best ? " best" : ""), title: p === undefined ? "" : `p = ${p.toPrecision(2)}` });
    const left = missing(suite, arm, metric) ? `, ${suite.n - missing(suite, arm, metric)} judged` : "";
    const interval = metric === "kl" ? `${shown(low)} to ${shown(high)}` : range(low, high);
    cell.append(shown(value) + (p < 0.05 ? " *" : ""), element("span", { className: "interval", textContent: ` ${interval}${left}` }));
    row.append(cell);
  });
  return row;
}

// Into an empty table: a row for every metric that is chosen of a suite.
function fillTable(id, chosen) {
  const head = element("tr", {}, element("th", { textContent: "suite" }), element("th", { textContent: "n", className: "number" }), element("th", { textContent: "counted" }));
  for (const arm of arms) head.append(element("th", { textContent: arm, className: "number" }));
  const body = element("tbody");
  for (const kind of ["safety", "over-refusal", "utility"]) {
    const rows = Object.entries(results.suites).filter(([, suite]) => suite.kind === kind);
    if (!rows.length) continue;
    body.append(element("tr", { className: "kind" }, element("th", { colSpan: 3 + arms.length, textContent: kind })));
    for (const [name, suite] of rows) {
      const known = Object.keys(WORDS).filter((metric) => arms.some((arm) => suite.metrics[arm][metric]));
      for (const metric of chosen(suite, known)) body.append(tableRow(name, suite, metric, kind));
    }
  }
  at(id).append(element("thead", {}, head), body);
}

function showTables() {
  const main = (suite) => [...new Set([mainMetric(suite), ...(suite.metric === "identical" ? ["refusal"] : []), "win_rate"])];
  fillTable("table", (suite, known) => main(suite).filter((metric) => known.includes(metric) || metric === mainMetric(suite)));
  fillTable("every", (suite, known) => known);
}

// A plane with both axes ruled in quarters, and the functions that place values on it.
function ruled(width, height, [left, right, bottom], [lowX, highX], [lowY, highY], labels, name) {
  const x = (v) => left + ((v - lowX) / (highX - lowX || 1)) * (width - left - right);
  const y = (v) => 15 + ((highY - v) / (highY - lowY || 1)) * (height - bottom - 15);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  const crowded = width - left - right < 180;
  for (let step = 0; step <= 4; step++) {
    const [across, up] = [lowX + (step / 4) * (highX - lowX), lowY + (step / 4) * (highY - lowY)];
    svg.append(drawn("line", { class: "axis", x1: x(lowX), x2: x(highX), y1: y(up), y2: y(up) }), drawn("text", { x: left - 8, y: y(up) + 4, "text-anchor": "end" }, labels.y(up)));
    svg.append(drawn("line", { class: "axis", x1: x(across), x2: x(across), y1: y(lowY), y2: y(highY) }), drawn("text", { x: x(across), y: height - bottom + 18, "text-anchor": "middle" }, crowded && step % 2 ? "" : labels.x(across)));
  }
  svg.append(drawn("text", { x: left, y: height - 6 }, labels.below));
  return { svg, x, y };
}

const path = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function showCurve() {
  const averages = (arm) => ({ arm, x: results.averages[arm].identical, y: results.averages[arm].dsr });
  const points = arms.map(averages).filter((p) => p.x !== null && p.y !== null);
  if (!points.length) { at("curve").textContent = "Needs a safety suite and a harmless one."; return; }
  const leftmost = Math.min(...points.map((p) => p.x));
  const lowest = [0.8, 0.6, 0.2].find((start) => start <= leftmost) ?? 0; // from each of these, quarters are round
  const labels = { x: (v) => percent(v, 0), y: (v) => percent(v, 0), below: "harmless replies unchanged" };
  const { svg, x, y } = ruled(room("curve", 680), 380, [60, 150, 45], [lowest, 1], [0, 1], labels, "Refusals of malicious requests against unchanged harmless replies, by arm");
  const names = Object.keys(curves);
  const colour = (arm) => COLOURS[(names.length ? names.findIndex((name) => curves[name].includes(arm) && arm !== "vanilla") + 1 : arms.indexOf(arm)) % COLOURS.length];
  for (const name of names) svg.append(drawn("path", { class: "curve", stroke: colour(curves[name][1]), d: path(curves[name].map(averages).map((p) => [x(p.x), y(p.y)])) }));
  const written = [];
  for (const p of points) {
    const [across, up] = [x(p.x), y(p.y)];
    // A name that would stand on another one moves a line down, or up where the axis' numbers are below.
    let line = up + 4;
    const away = p.y < 0.15 ? -12 : 12;
    while (written.some(([a, b]) => Math.abs(a - across) < 110 && Math.abs(b - line) < 12)) line += away;
    written.push([across, line]);
    svg.append(drawn("circle", { cx: across, cy: up, r: 5, fill: colour(p.arm) }), drawn("text", { x: across + 9, y: line }, p.arm));
  }
  at("curve").append(svg);
}

const KINDS = { safety: ["#D55E00", "#E69F00", "#CC79A7", "#a63d40", "#8c6d1f", "#f4a582", "#6d2f00", "#d4b106"], harmless: ["#0072B2", "#56B4E9", "#009E73", "#6a5acd", "#2f6f6f"] };
function suiteColour(name) {
  const side = (suite) => (suite.kind === "safety" ? "safety" : "harmless");
  const alike = Object.keys(results.suites).filter((other) => side(results.suites[other]) === side(results.suites[name]));
  const palette = KINDS[side(results.suites[name])];
  return palette[alike.indexOf(name) % palette.length];
}

function keys(names) {
  return element("span", {}, ...names.map((name) => {
    const dot = element("i");
    dot.style.background = suiteColour(name);
    return element("span", { className: "key" }, dot, name);
  }));
}

function showStreams() {
  const arm = at("stream-arm").value;
  at("legend").replaceChildren(keys(Object.keys(shifts[arm])));
  const dots = Object.entries(places[arm] ?? {});
  const all = dots.flatMap(([, sides]) => [...sides.before, ...sides.after]);
  const span = (index) => [Math.min(...all.map((d) => d[index])), Math.max(...all.map((d) => d[index]))];
  at("planes").replaceChildren(...(all.length ? ["before", "after"] : []).map((side) => {
    const labels = { x: (v) => v.toFixed(0), y: (v) => v.toFixed(0), below: "first component; upwards the second" };
    const { svg, x, y } = ruled(420, 320, [50, 15, 45], span(0), span(1), labels, `Activations ${side} steering`);
    for (const [name, sides] of dots) for (const [across, up] of sides[side]) svg.append(drawn("circle", { cx: x(across), cy: y(up), r: 3, fill: suiteColour(name), "fill-opacity": 0.7 }));
    return element("div", { className: "tile" }, element("h3", { textContent: { before: "unsteered", after: arm }[side] }), svg);
  }));
  const lines = Object.entries(shifts[arm]);
  const layers = lines[0][1].length;
  const most = Math.max(0.01, ...lines.flatMap(([, values]) => values));
  const labels = { x: (v) => v.toFixed(0), y: (v) => percent(v, 0), below: "layer" };
  const { svg, x, y } = ruled(room("shift", 640), 300, [60, 20, 45], [0, Math.max(1, layers - 1)], [0, most], labels, "Shift of the residual stream by layer and suite");
  for (const [name, values] of lines) svg.append(drawn("path", { class: "curve", stroke: suiteColour(name), d: path(values.map((value, layer) => [x(layer), y(value)])) }, ""));
  at("shift").replaceChildren(svg);
}

function histogram(name, scores, colour, low, high, threshold, ceiling) {
  const [width, height, bins] = [300, 120, 30];
  const counts = new Array(bins).fill(0);
  for (const score of scores) counts[Math.min(bins - 1, Math.max(0, Math.floor(((score - low) / (high - low || 1)) * bins)))]++;
  const most = Math.max(...counts);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Gate scores of ${name}` });
  counts.forEach((count, bin) => svg.append(drawn("rect", { x: (bin * width) / bins, width: width / bins - 1, y: height - 18 - (count / most) * 95, height: (count / most) * 95, fill: colour })));
  for (const [value, dash] of [[threshold, "5 4"], [ceiling, "1 4"]]) {
    if (value === null) continue;
    const x = ((value - low) / (high - low || 1)) * width;
    svg.append(drawn("line", { class: "mark", x1: x, x2: x, y1: 0, y2: height - 18, "stroke-dasharray": dash }));
  }
  svg.append(drawn("text", { x: 0, y: height - 4 }, low.toFixed(2)), drawn("text", { x: width, y: height - 4, "text-anchor": "end" }, high.toFixed(2)));
  return svg;
}

function showGates() {
  const { threshold, ceiling, scores } = gates[at("gate-arm").value];
  const marks = [threshold, ceiling].filter((mark) => mark !== null);
  const all = [...Object.values(scores).flat(), ...marks];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  at("histograms").replaceChildren(...Object.entries(scores).map(([name, values]) => {
    const suite = results.suites[name];
    const { opened, auc } = suite.gates[at("gate-arm").value];
    const area = auc === null ? "" : `, AUC ${auc.value.toFixed(3)} (${auc.low.toFixed(2)} to ${auc.high.toFixed(2)})`;
    const words = `${name}: opens on ${percent(opened.value)}${area}`;
    const colour = suite.kind === "safety" ? "#D55E00" : suite.kind === "utility" ? "#0072B2" : "#56B4E9";
    return element("div", { className: "tile" }, element("h3", { textContent: words }), histogram(name, values, colour, low, high, threshold, ceiling));
  }));
  showRoc(scores);
}

// Of every score as a threshold: the share of harmless prompts above it, and of malicious ones.
function rocPoints(harmless, malicious) {
  const falling = [...harmless.map((score) => [score, 0]), ...malicious.map((score) => [score, 1])].sort(([a], [b]) => b - a);
  const above = [0, 0];
  const points = [[0, 0]];
  falling.forEach(([score, side], place) => {
    above[side]++;
    if (score !== falling[place + 1]?.[0]) points.push([above[0] / harmless.length, above[1] / malicious.length]);
  });
  return points;
}

function showRoc(scores) {
  const names = Object.keys(scores);
  const harmless = names.filter((name) => results.suites[name].kind !== "safety").flatMap((name) => scores[name]);
  const safety = names.filter((name) => results.suites[name].kind === "safety");
  at("roc").replaceChildren();
  if (!harmless.length || !safety.length) return;
  const labels = { x: (v) => percent(v, 0), y: (v) => percent(v, 0), below: "harmless prompts; upwards malicious ones" };
  const { svg, x, y } = ruled(room("roc", 640), 300, [60, 20, 45], [0, 1], [0, 1], labels, "ROC curves of the gate by suite");
  for (const name of safety) svg.append(drawn("path", { class: "curve", stroke: suiteColour(name), d: path(rocPoints(harmless, scores[name]).map(([a, b]) => [x(a), y(b)])) }));
  at("roc").append(svg, keys(safety));
}

const FILTERS = { "all replies": () => true, "changed replies": (row) => arms.some((arm) => !row.arms[arm].identical) };
for (const arm of arms) {
  FILTERS[`refused by ${arm}`] = (row) => row.arms[arm].refusal;
  FILTERS[`not refused by ${arm}`] = (row) => row.arms[arm].refusal === false;
  FILTERS[`incoherent, ${arm}`] = (row) => row.arms[arm].coherent === false;
  FILTERS[`unjudged, ${arm}`] = (row) => row.arms[arm].refusal === null;
}
let page = 0;

function tags(arm, reply) {
  const found = [];
  if (reply.refusal === null) found.push(["incoherent", "unjudged"]);
  if (reply.refusal) found.push(["refusal", "refusal"]);
  if (reply.coherent === false) found.push(["incoherent", "incoherent"]);
  if (reply.accuracy !== undefined) found.push(reply.accuracy ? ["right", "right"] : ["wrong", "wrong"]);
  if (reply.identical && arm !== "vanilla") found.push(["same", "unchanged"]);
  return found.map(([kind, word]) => element("span", { className: `tag ${kind}`, textContent: word }));
}

function showReplies() {
  const words = at("search").value.toLowerCase();
  const says = (row) => [row.prompt, ...arms.map((arm) => row.arms[arm].text)].some((text) => text.toLowerCase().includes(words));
  const rows = replies[at("suite").value].filter((row) => FILTERS[at("filter").value](row) && says(row));
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  page = Math.min(page, pages - 1);
  at("count").textContent = `${rows.length} of ${replies[at("suite").value].length} prompts`;
  at("page").textContent = `${page + 1} of ${pages}`;
  at("back").disabled = page === 0;
  at("next").disabled = page === pages - 1;
  at("cards").replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
    const sides = arms.map((arm) => element("div", { className: "arm" }, element("h4", { textContent: arm }, ...tags(arm, row.arms[arm])), row.arms[arm].text));
    return element("article", { className: "card" }, element("div", { className: "prompt", textContent: row.prompt }), element("div", { className: "arms" }, ...sides));
  }));
}

const options = (id, names) => at(id).append(...names.map((name) => element("option", { textContent: name, value: name })));
showAverages();
showTests();
showTables();
showCurve();
options("gate-arm", Object.keys(gates));
if (Object.keys(gates).length) showGates();
options("stream-arm", Object.keys(shifts));
if (Object.keys(shifts).length) showStreams();
options("suite", Object.keys(replies));
options("filter", Object.keys(FILTERS));
showReplies();
at("gate-arm").addEventListener("change", showGates);
at("stream-arm").addEventListener("change", showStreams);
for (const id of ["suite", "filter", "search"]) at(id).addEventListener("input", () => { page = 0; showReplies(); });
at("back").addEventListener("click", () => { page--; showReplies(); });
at("next").addEventListener("click", () => { page++; showReplies(); });
