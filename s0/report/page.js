"use strict";
// Everything shown comes from the records: text enters the page through textContent only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#000000", "#7f7f7f", "#b24745"];
const NAMES = { solved: "solved by both", new: "newly solved", broken: "newly broken", unsolved: "solved by neither" };

function element(tag, parent, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (parent) parent.appendChild(node);
  return node;
}

function shape(tag, parent, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

function ticks(low, high, count) {
  const raw = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Number(v.toPrecision(12)));
  return out;
}

// series: [{name, points: [[x, y], ...]}]; x and y are numbers, names any text
function chart(parent, caption, xLabel, yLabel, series) {
  const figure = element("figure", parent);
  element("figcaption", figure, caption);
  const W = 480, H = 260, L = 52, R = 12, T = 10, B = 40;
  const svg = shape("svg", figure, { viewBox: `0 0 ${W} ${H}`, width: "100%", role: "img", "aria-label": caption });
  const all = series.flatMap((s) => s.points);
  let [x0, x1] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
  let [y0, y1] = [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
  const pad = 0.06 * (y1 - y0); y0 -= pad; y1 += pad;
  const X = (x) => L + (x - x0) / (x1 - x0) * (W - L - R), Y = (y) => H - B - (y - y0) / (y1 - y0) * (H - T - B);
  for (const v of ticks(y0, y1, 5)) {
    shape("line", svg, { x1: L, x2: W - R, y1: Y(v), y2: Y(v), stroke: "#e5e5e5" });
    shape("text", svg, { x: L - 5, y: Y(v) + 4, "text-anchor": "end" }, String(v));
  }
  for (const v of ticks(x0, x1, 6)) shape("text", svg, { x: X(v), y: H - B + 15, "text-anchor": "middle" }, String(v));
  shape("line", svg, { x1: L, x2: W - R, y1: H - B, y2: H - B, stroke: "#555" });
  shape("text", svg, { x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" }, xLabel);
  shape("text", svg, { x: 12, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(T + H - B) / 2})` }, yLabel);
  series.forEach((s, i) => {
    const stroke = COLOURS[i % COLOURS.length];
    const d = s.points.map((p, j) => `${j ? "L" : "M"}${X(p[0]).toFixed(1)} ${Y(p[1]).toFixed(1)}`).join("");
    const path = shape("path", svg, { d, fill: "none", stroke, "stroke-width": 1.6 });
    shape("title", path, {}, s.name);
    if (s.points.length < 30) for (const p of s.points) shape("circle", svg, { cx: X(p[0]), cy: Y(p[1]), r: 2.5, fill: stroke });
  });
  const legend = element("div", figure, undefined, { class: "dim" });
  series.forEach((s, i) => {
    const item = element("span", legend, undefined, { class: "key" });
    element("span", item, "● ").style.color = COLOURS[i % COLOURS.length];
    element("span", item, s.name);
  });
}

function pane(parent, title, text, verdict) {
  const box = element("div", parent);
  element("h3", box, title);
  if (verdict) element("div", box, "verdict: " + verdict, { class: "note" });
  element("pre", box, text);
}

function show(cell, run, problem, button) {
  document.querySelectorAll(".cells .on").forEach((b) => b.classList.remove("on"));
  button.classList.add("on");
  const detail = document.getElementById("detail");
  detail.replaceChildren();
  detail.hidden = false;
  const [id, kind, prompt, base, baseVerdict, tuned, tunedVerdict] = problem;
  const head = element("div", detail);
  element("b", head, `${data.strings[id]} · ${cell.name} · seed ${run.seed} · ${NAMES[kind]} `);
  element("button", head, "close").addEventListener("click", () => { detail.hidden = true; button.focus(); });
  const panes = element("div", detail, undefined, { class: "panes" });
  pane(panes, "prompt", prompt === null ? "(not stored with the record)" : data.strings[prompt]);
  pane(panes, "base completion", data.strings[base], data.strings[baseVerdict]);
  pane(panes, "tuned completion", data.strings[tuned], data.strings[tunedVerdict]);
}

const grid = document.getElementById("grid");
for (const cell of data.cells) {
  element("h3", grid, cell.name);
  for (const run of cell.runs) {
    const row = element("div", grid, undefined, { class: "seedrow" });
    element("b", row, `seed ${run.seed}`);
    const cells = element("div", row, undefined, { class: "cells" });
    for (const problem of run.problems) {
      const label = `${data.strings[problem[0]]}, seed ${run.seed}: ${NAMES[problem[1]]}`;
      const button = element("button", cells, undefined, { class: problem[1], title: label, "aria-label": label, type: "button" });
      button.addEventListener("click", () => show(cell, run, problem, button));
    }
  }
  for (const line of cell.unfinished) element("p", grid, line, { class: "note" });
}
if (!data.cells.length) element("p", grid, "No record holds both evaluations.", { class: "note" });

const training = document.getElementById("training");
for (const curves of data.training) chart(training, curves.name, "optimiser step", curves.quantity, curves.series);
if (!data.training.length) element("p", training, "No record holds a training curve.", { class: "note" });

const alpha = document.getElementById("alpha");
for (const curve of data.alpha) chart(alpha, curve.name, "alpha", curve.quantity, curve.series);
if (!data.alpha.length) element("p", alpha, "Only one alpha was run.", { class: "note" });

document.body.dataset.ready = "yes";
