"use strict";
// What all parts of the page share: its state, and how elements, numbers and times are made.
// Everything that comes from outside (ids most of all) enters the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const SPACE = $("curve").namespaceURI;

const state = {
  picture: null, curves: {}, experiment: null, history: {}, hues: new Map(), arrived: 0, first: null, source: null,
  map: null, view: null, mapVersion: null, mapPicked: false, places: new Map(), chosen: null, neighbours: [], words: new Map(),
};

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function draw(tag, attributes, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const tick = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
const number = (value) => (known(value) ? whole.format(value) : "–");
const brief = (value) => (!known(value) ? "–" : Math.abs(value) < 1e7 ? whole.format(value) : short.format(value));
const percent = (value) => (known(value) ? (100 * value).toFixed(1) + "\u00a0%" : "–"); // a number keeps its unit
const rounded = (text) => text.replace(".0\u00a0%", "\u00a0%");

function span(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 90) return (seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)) + " s";
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " days";
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

function hue(version) {
  if (!state.hues.has(version)) state.hues.set(version, state.hues.size % 6);
  return "h" + state.hues.get(version);
}

const head = (labels) => make("thead", {}, make("tr", {}, ...labels.map((label) => make("th", { scope: "col" }, label))));

async function get(path) {
  let answer;
  try {
    answer = await fetch(path, { headers: { accept: "application/json" } });
  } catch {
    throw new Error("The server does not answer. Ask again when it is back.");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error?.message || `The server answered with ${answer.status}.`);
  return body;
}
