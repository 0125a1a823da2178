"use strict";
// Draws what the server's event stream tells. Everything that comes from outside (ids most of all)
// enters the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const SPACE = $("curve").namespaceURI;
const SILENT_MS = 5000; // without a picture: figures are old
const OLD_S = 10; // seconds after which a version's own figures are greyed
const KEPT = 300; // points of a sparkline
const MAP_MS = 10000;

const state = {
  picture: null, curves: {}, history: {}, hues: new Map(), arrived: 0, source: null,
  map: null, view: null, mapVersion: null, places: new Map(), chosen: null, neighbours: [], words: new Map(),
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
const number = (value) => (known(value) ? whole.format(value) : "–");
const brief = (value) => (!known(value) ? "–" : Math.abs(value) < 1e7 ? whole.format(value) : short.format(value));
const percent = (value) => (known(value) ? (100 * value).toFixed(1) + " %" : "–");

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

// --- the stream -------------------------------------------------------------------------------

function connect() {
  const source = new EventSource("feed");
  state.source = source;
  source.addEventListener("history", (event) => { state.history = JSON.parse(event.data); });
  source.addEventListener("curves", (event) => {
    state.curves = JSON.parse(event.data);
    drawCurves();
    drawSegments();
  });
  source.addEventListener("picture", (event) => {
    state.picture = JSON.parse(event.data);
    state.arrived = performance.now();
    remember(state.picture);
    drawVersions();
    offerMaps();
    tell();
  });
  source.onerror = () => {
    tell();
    // A browser gives up for good where an answer was an error: a server that is full, or on its way up.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

function remember(picture) {
  for (const one of picture.versions) {
    const points = (state.history[one.version] ||= []);
    const last = points[points.length - 1];
    if (!last || last[0] < picture.now - 0.2) {
      points.push([picture.now, one.events_per_second, one.lag, one.visible_p99_s ?? one.durable_p99_s]);
    }
    if (points.length > KEPT) points.splice(0, points.length - KEPT);
  }
  const names = new Set(picture.versions.map((one) => one.version));
  for (const name of Object.keys(state.history)) if (!names.has(name)) delete state.history[name];
}

// How the connection is, in words; also called on a timer, so that silence shows.
function tell() {
  const since = performance.now() - state.arrived;
  const open = state.source && state.source.readyState === EventSource.OPEN;
  const silent = !state.arrived || since > SILENT_MS;
  let kind = "well", words = "live";
  if (!state.arrived) [kind, words] = ["busy", open ? "connected, waiting" : "connecting"];
  else if (!open) [kind, words] = ["bad", "reconnecting"];
  else if (silent) [kind, words] = ["bad", "no news"];
  const link = $("link");
  if (link.dataset.words !== words) {
    link.dataset.words = words;
    link.className = "pill " + kind;
    $("link-text").textContent = words;
  }
  const stale = Boolean(state.arrived) && (silent || !open);
  document.body.classList.toggle("stale", stale);
  const banner = $("stale");
  if (banner.hidden === stale) {
    banner.hidden = !stale;
    banner.textContent = stale
      ? `The server has not been heard since ${clock(state.picture.now)}. Figures are of that moment; the page comes back by itself.`
      : "";
  }
}

// --- versions ---------------------------------------------------------------------------------

const cards = new Map();

function drawVersions() {
  const { versions, others } = state.picture;
  const place = $("versions");
  const names = new Set(versions.map((one) => one.version));
  for (const [name, card] of cards) if (!names.has(name)) { card.box.remove(); cards.delete(name); }
  const empty = place.querySelector(":scope > .empty");
  if (versions.length && empty) empty.remove();
  if (!versions.length) {
    if (!empty) place.append(make("p", { class: "empty" }, ""));
    place.querySelector(":scope > .empty").textContent = others.length
      ? "No version serves or is being learned. Promote one with “freshet versions promote NAME”, or start “freshet work NAME”."
      : "There is no version yet. Make one with “freshet versions create NAME”, then “freshet work NAME”.";
  }
  for (const one of versions) {
    let card = cards.get(one.version);
    if (!card) {
      card = newCard(one.version);
      cards.set(one.version, card);
    }
    place.append(card.box);
    fill(card, one);
  }
  $("others").textContent = others.length
    ? `${others.length} more, neither serving nor being learned: ${others.slice(0, 8).join(", ")}${others.length > 8 ? " …" : ""}`
    : "";
  announce(versions);
}

// A screen reader is told of a change of state, not of each second's figures.
function announce(versions) {
  const news = [];
  for (const one of versions) {
    const words = one.state === "bad" ? "trouble" : one.state;
    if (state.words.has(one.version) && state.words.get(one.version) !== words) {
      news.push(`${one.version}: ${one.words}`);
    }
    state.words.set(one.version, words);
  }
  if (news.length) $("changes").textContent = news.join(". ");
}

const FIGURES = [
  ["rate", "Events a second"], ["lag", "Behind"], ["visible", "Visible, p99"],
  ["events", "Events learned"], ["recent", "Hit rate, all"], ["durable", "Durable, p99"],
  ["items", "Items"], ["bad", "Dead letters"], ["drift", "Drift alarms"],
];

function newCard(version) {
  const card = { figures: {}, sparks: {} };
  card.name = make("h3", {}, version);
  card.tag = make("span", { class: "tag" });
  card.words = make("span");
  card.state = make("p", { class: "state" }, make("span", { class: "dot", "aria-hidden": "true" }), card.words);
  const list = make("dl", { class: "figures" });
  for (const [key, label] of FIGURES) {
    const value = make("dd");
    const box = make("div", {}, make("dt", {}, label), value);
    card.figures[key] = value;
    list.append(box);
    if (["rate", "lag", "visible"].includes(key)) {
      const path = draw("path");
      const chart = draw("svg", { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" }, path);
      card.sparks[key] = path;
      box.append(chart);
    }
  }
  card.age = make("p", { class: "age" });
  card.box = make("article", { class: "card", "aria-label": "Version " + version },
    make("div", { class: "bar" }, card.name, card.tag), card.state, list, card.age);
  return card;
}

function fill(card, one) {
  const still = one.state === "bad" || one.state === "idle" || (one.metrics_age_s ?? 0) > OLD_S;
  card.box.className = `card ${one.state} ${hue(one.version)}${still ? " stale" : ""}`;
  const role = { champion: "champion", share: "takes a share", retired: "retired" }[one.arm] || "takes no traffic";
  const share = one.arm && known(one.share) && one.share > 0 ? " · " + percent(one.share).replace(".0 %", " %") : "";
  card.tag.textContent = role + share;
  card.words.textContent = one.words;
  const put = (key, value, unit) => {
    const text = value + (unit ? " " + unit : "");
    if (card.figures[key].dataset.text === text) return;
    card.figures[key].dataset.text = text;
    card.figures[key].replaceChildren(value, ...(unit ? [" ", make("small", {}, unit)] : []));
  };
  const segments = state.curves[one.version]?.segments;
  put("events", brief(one.events));
  put("rate", number(one.events_per_second));
  put("lag", known(one.lag) ? brief(one.lag) : "not known", known(one.lag) ? "records" : "");
  put("visible", span(one.visible_p99_s));
  put("durable", span(one.durable_p99_s));
  put("recent", segments && segments.overall[1] ? percent(segments.overall[0] / segments.overall[1]) : "–");
  put("items", brief(one.items));
  put("bad", brief(one.dead_letters));
  put("drift", brief(one.drift_alarms));
  const points = state.history[one.version] || [];
  spark(card.sparks.rate, points, 1);
  spark(card.sparks.lag, points, 2);
  spark(card.sparks.visible, points, 3);
  const parts = [];
  if (known(one.as_of) && one.as_of > 0) parts.push("newest event " + new Date(one.as_of * 1000).toLocaleString());
  if (still && known(one.age_s)) parts.unshift(`figures are ${span(Math.max(one.age_s, one.metrics_age_s ?? 0))} old`);
  if (one.learner) parts.unshift(one.learner);
  card.age.textContent = parts.join(" · ");
}

// The last minutes, from 0 up, so that a small ripple does not look like a flood.
function spark(path, points, column) {
  const values = points.map((point) => point[column]);
  const high = Math.max(1e-9, ...values.filter(known));
  const end = points.length ? points[points.length - 1][0] : 0;
  const wide = Math.max(60, Math.min(KEPT, points.length ? end - points[0][0] : 0));
  let line = "", pen = false;
  points.forEach((point, k) => {
    if (!known(values[k])) { pen = false; return; }
    const x = 100 - ((end - point[0]) / wide) * 100;
    if (x < 0) return;
    line += `${pen ? "L" : "M"}${x.toFixed(2)} ${(26 - 24 * Math.max(0, values[k]) / high).toFixed(2)}`;
    pen = true;
  });
  path.setAttribute("d", line);
}

// --- curves -----------------------------------------------------------------------------------

function pointsOf(curve) {
  const scale = curve.evaluated ? curve.events / curve.evaluated : 1;
  let seen = 0;
  return curve.counts.map((count, k) => {
    const p = count ? curve.hits[k] / count : 0;
    const half = count ? 1.96 * Math.sqrt(p * (1 - p) / count) : 0;
    const at = (seen + count / 2) * scale;
    seen += count;
    return { at, p, low: Math.max(0, p - half), high: Math.min(1, p + half), count };
  }).filter((point, k, all) => point.count >= 20 && (k < all.length - 1 || point.count >= curve.span / 4));
}

function nice(high, count) {
  const rough = high / count, unit = 10 ** Math.floor(Math.log10(rough || 1));
  return unit * [1, 2, 2.5, 5, 10].find((step) => step * unit >= rough);
}

function drawCurves() {
  const chart = $("curve"), names = Object.keys(state.curves);
  const lines = names.map((name) => ({ name, curve: state.curves[name], points: pointsOf(state.curves[name]) }));
  const shown = lines.filter((line) => line.points.length);
  const width = Math.max(280, chart.clientWidth), height = chart.clientHeight || 280;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  if (!shown.length) { chart.replaceChildren(); return; }
  const left = 44, right = 14, top = 18, bottom = 26;
  const most = Math.max(...shown.map((line) => line.curve.events));
  const peak = Math.max(0.02, ...shown.flatMap((line) => line.points.map((point) => point.high)));
  const up = nice(peak, 4), high = Math.ceil(peak / up) * up;
  const x = (at) => left + (width - left - right) * at / most;
  const y = (p) => height - bottom - (height - top - bottom) * p / high;
  const parts = [];
  for (let p = 0; p <= high + 1e-9; p += up) {
    parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(p), y2: y(p) }));
    parts.push(draw("text", { x: left - 8, y: y(p) + 4, "text-anchor": "end" }, (100 * p).toFixed(up < 0.01 ? 1 : 0) + " %"));
  }
  const along = nice(most, width < 500 ? 3 : 6);
  for (let at = along; at <= most; at += along) {
    const anchor = x(at) > width - 40 ? "end" : "middle";
    parts.push(draw("text", { x: x(at), y: height - 6, "text-anchor": anchor }, short.format(at)));
  }
  parts.push(draw("text", { x: left, y: height - 6 }, "events"));
  for (const { name, curve, points } of shown) {
    const group = draw("g", { class: hue(name) });
    const at = (point, key) => `${x(point.at).toFixed(1)} ${y(point[key]).toFixed(1)}`;
    const band = points.map((point) => at(point, "high")).concat([...points].reverse().map((point) => at(point, "low")));
    group.append(draw("path", { class: "band", d: "M" + band.join("L") + "Z" }));
    group.append(draw("path", { class: "line", d: "M" + points.map((point) => at(point, "p")).join("L") }));
    for (const mark of curve.marks) {
      if (mark.at > most) continue;
      const mx = x(mark.at);
      group.append(draw("g", { class: "mark" },
        draw("title", {}, `${name}: drift in ${mark.signal}, ${clock(mark.time)}`),
        draw("line", { x1: mx, x2: mx, y1: top, y2: height - bottom }),
        draw("path", { d: `M${mx} ${top - 8}l6 7l-6 7l-6 -7z` })));
    }
    parts.push(group);
  }
  chart.replaceChildren(...parts);
  $("curve-key").replaceChildren(...shown.map(({ name }) => make("span", { class: hue(name) }, make("i"), name)));
  $("curve-words").textContent = shown.map(({ name, points, curve }) => {
    const last = points[points.length - 1];
    const drift = curve.marks.length ? `, ${curve.marks.length} drift marks` : "";
    return `${name}: ${percent(last.p)} (${percent(last.low)} to ${percent(last.high)}) now${drift}`;
  }).join("; ") + ".";
  drawCurveTable(shown);
}

function drawCurveTable(shown) {
  if (!$("curve-table").closest("details").open) return;
  const rows = shown.flatMap(({ name, points }) => points.filter((_, k) => k % Math.ceil(points.length / 16) === 0 || k === points.length - 1)
    .map((point) => make("tr", {}, make("th", { scope: "row" }, name), ...[
      number(point.at), percent(point.p), percent(point.low) + " – " + percent(point.high), number(point.count),
    ].map((text) => make("td", {}, text)))));
  $("curve-table").replaceChildren(head(["Version", "At event", "Hit rate", "95 % interval", "Evaluated"]), make("tbody", {}, ...rows));
}

const head = (labels) => make("thead", {}, make("tr", {}, ...labels.map((label) => make("th", { scope: "col" }, label))));

const SEGMENTS = { overall: "All", new_user: "New users", returning_user: "Returning users", new_item: "New items" };

function drawSegments() {
  const names = Object.keys(state.curves);
  if (!names.length) return;
  const rows = names.map((name) => {
    const cells = Object.keys(SEGMENTS).map((segment) => {
      const [hits, count] = state.curves[name].segments[segment] || [0, 0];
      if (!count) return make("td", {}, "–");
      const p = hits / count, half = 1.96 * Math.sqrt(p * (1 - p) / count);
      return make("td", { title: `${number(hits)} of ${number(count)}` }, percent(p), make("br"),
        make("small", {}, `± ${(100 * half).toFixed(1)}`), make("br"), make("small", {}, `of ${short.format(count)}`));
    });
    return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
  });
  $("segments").replaceChildren(
    make("caption", { class: "unseen" }, "Hit rate at 10 by segment, 95 % interval and events evaluated"),
    head(["Version", ...Object.values(SEGMENTS)]), make("tbody", {}, ...rows));
}

// --- a user -----------------------------------------------------------------------------------

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

const WORDS = { taste: "the user's taste", popularity: "popular now", repetition: "had before" };
const REPRESENTED = {
  row: "its own vector", history: "its recent items", session: "its session", content: "what its items are", popularity: "what is popular",
};
const ARMS = {
  champion: "the champion", share: "its share of the traffic", override: "named for this user", holdout: "held out", only: "the only version",
};

async function askUser(event) {
  event.preventDefault();
  const user = $("user").value, place = $("answer");
  if (!user) return;
  place.replaceChildren(make("p", { class: "empty" }, "Asking …"));
  try {
    const path = encodeURIComponent(user);
    const [route, found] = await Promise.all([get(`v1/route/${path}`), get(`v1/users/${path}/recommendations?k=6`)]);
    const fact = (label, value) => make("span", {}, label + " ", make("b", {}, value));
    const facts = make("p", { class: "facts" },
      fact("Version", found.version), fact("because it is", ARMS[route.arm] || route.arm),
      fact("represented by", REPRESENTED[found.represented_by] || found.represented_by),
      fact("from", found.origin === "live" ? `live tables, ${span(found.age_s)} old` : `the store, read ${span(found.age_s)} ago`));
    const items = found.items.map((one) => make("li", {},
      itemButton(one.item), make("span", { class: "score" }, one.score.toFixed(2)),
      make("span", { class: "why" }, reasons(one.because))));
    place.replaceChildren(facts, items.length ? make("ol", { class: "ranked" }, ...items) : make("p", { class: "empty" }, "Nothing is left to recommend."));
  } catch (error) {
    place.replaceChildren(make("p", { class: "problem" }, error.message));
  }
}

function reasons(because) {
  const had = because.filter((one) => one.kind === "history").map((one) => one.item);
  const words = because.filter((one) => one.kind !== "history").map((one) => WORDS[one.kind] || one.kind);
  if (had.length) words.push("because of " + had.join(", "));
  return words.length ? words.join(" · ") : "nothing stands out";
}

const itemButton = (item) => make("span", { class: "name" },
  make("button", { class: "plain", type: "button", onclick: () => choose(item) }, item));

// --- the map ----------------------------------------------------------------------------------

function offerMaps() {
  const able = state.picture.versions.filter((one) => one.vectors).map((one) => one.version);
  const list = $("map-version");
  if (list.dataset.names !== able.join("\n")) {
    list.dataset.names = able.join("\n");
    list.replaceChildren(...able.map((name) => make("option", { value: name }, name)));
    list.hidden = able.length < 2;
    if (!able.includes(state.mapVersion)) {
      state.mapVersion = able[0] ?? null;
      forgetMap();
      readMap();
    }
    if (state.mapVersion) list.value = state.mapVersion;
  }
  if (!able.length && !state.map) $("map-words").textContent = "No version here keeps item vectors, so there is nothing to map yet.";
}

function forgetMap() {
  Object.assign(state, { map: null, view: null, chosen: null, neighbours: [] });
  state.places.clear();
  const canvas = $("map");
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

let readingMap = false;
async function readMap() {
  if (!state.mapVersion || readingMap || document.hidden) return;
  readingMap = true;
  const version = state.mapVersion;
  try {
    const map = await get(`feed/map?version=${encodeURIComponent(version)}`);
    if (version === state.mapVersion) {
      state.map = map;
      state.places = new Map(map.items.map((one, k) => [one[0], k]));
      state.view = map.items.length ? { across: viewed(1), up: viewed(2) } : null;
      drawMap();
      mapWords();
    }
  } catch (error) {
    $("map-words").textContent = `The map is not new: ${error.message}`;
  } finally {
    readingMap = false;
    if (version !== state.mapVersion) readMap();
  }
}

function mapWords() {
  const { map } = state;
  $("map-words").textContent = map.items.length
    ? `The ${number(map.items.length)} items of ${map.version} with most events; a larger dot has more. The plane holds ${percent(map.explained)} of what sets their directions apart, so nearness on it is a hint: neighbours are computed in all dimensions.`
    : `${map.version} knows no item yet.`;
}

// The part of the plane that is shown: nearly all items, those far out at its edge.
function viewed(column) {
  const sorted = state.map.items.map((one) => one[column]).sort((a, b) => a - b);
  const low = sorted[Math.floor(0.005 * (sorted.length - 1))], high = sorted[Math.ceil(0.995 * (sorted.length - 1))];
  return { middle: (low + high) / 2, half: Math.max((high - low) / 2, 1e-6) };
}

function placed() {
  const canvas = $("map"), width = canvas.clientWidth, height = canvas.clientHeight, margin = 22;
  const { across, up } = state.view, within = (value) => Math.max(-1.05, Math.min(1.05, value));
  return {
    width, height,
    x: (one) => width / 2 + within((one[1] - across.middle) / across.half) * (width / 2 - margin),
    y: (one) => height / 2 - within((one[2] - up.middle) / up.half) * (height / 2 - margin),
  };
}

function drawMap() {
  const canvas = $("map");
  if (!state.map || !state.view) return;
  const { width, height, x, y } = placed(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  pen.scale(ratio, ratio);
  const most = Math.log1p(Math.max(1, ...state.map.items.map((one) => one[3])));
  pen.fillStyle = colour("--c" + (state.hues.get(state.map.version) ?? 0));
  const quiet = state.chosen !== null;
  for (let k = state.map.items.length - 1; k >= 0; k--) {
    const one = state.map.items[k], share = Math.log1p(one[3]) / most;
    pen.globalAlpha = quiet ? 0.22 : 0.55;
    pen.beginPath();
    pen.arc(x(one), y(one), 1.2 + 3.6 * share ** 3, 0, 7);
    pen.fill();
  }
  pen.globalAlpha = 1;
  const at = (item) => state.map.items[state.places.get(item)];
  const chosen = at(state.chosen);
  pen.font = "12px system-ui, sans-serif";
  for (const near of state.neighbours) {
    const one = at(near.id);
    if (!one) continue;
    if (chosen) {
      pen.strokeStyle = colour("--line");
      pen.beginPath(); pen.moveTo(x(chosen), y(chosen)); pen.lineTo(x(one), y(one)); pen.stroke();
    }
    pen.fillStyle = colour("--c1");
    pen.beginPath(); pen.arc(x(one), y(one), 4.5, 0, 7); pen.fill();
  }
  if (chosen) {
    pen.fillStyle = colour("--text");
    pen.beginPath(); pen.arc(x(chosen), y(chosen), 6, 0, 7); pen.fill();
    const label = chosen[0].length > 28 ? chosen[0].slice(0, 27) + "…" : chosen[0];
    pen.font = "600 13px system-ui, sans-serif";
    const wide = pen.measureText(label).width;
    const lx = Math.min(Math.max(4, x(chosen) + 10), width - wide - 6), ly = Math.max(16, y(chosen) - 10);
    pen.globalAlpha = 0.85; pen.fillStyle = colour("--panel"); pen.fillRect(lx - 4, ly - 13, wide + 8, 18);
    pen.globalAlpha = 1; pen.fillStyle = colour("--text"); pen.fillText(label, lx, ly);
  }
}

async function choose(item) {
  state.chosen = item;
  state.neighbours = [];
  $("item").value = item;
  drawMap();
  const place = $("near"), version = state.mapVersion;
  try {
    const query = version ? `&version=${encodeURIComponent(version)}` : "";
    const found = await get(`v1/items/${encodeURIComponent(item)}/similar?k=10${query}`);
    if (state.chosen !== item) return;
    state.neighbours = found.similar;
    const one = state.map && state.map.items[state.places.get(item)];
    const where = one ? `${number(one[3])} events` : "not among the items on the map";
    place.replaceChildren(make("h3", {}, item), make("p", { class: "quiet" }, `${where}; nearest by ${found.by}`),
      make("ol", { class: "ranked" }, ...found.similar.map((near) => make("li", {}, itemButton(near.id), make("span", { class: "score" }, near.score.toFixed(3))))));
    drawMap();
  } catch (error) {
    if (state.chosen === item) place.replaceChildren(make("h3", {}, item), make("p", { class: "problem" }, error.message));
  }
}

function nearest(px, py, most, allowed = () => true) {
  const { x, y } = placed();
  let best = null, least = most * most;
  for (const one of state.map.items) {
    const dx = x(one) - px, dy = y(one) - py, far = dx * dx + dy * dy;
    if (far < least && allowed(dx, dy)) [best, least] = [one[0], far];
  }
  return best;
}

$("map").addEventListener("click", (event) => {
  if (!state.view) return;
  const item = nearest(event.offsetX, event.offsetY, 24);
  if (item !== null) choose(item);
});

const ARROWS = {
  ArrowLeft: (dx, dy) => dx < 0 && -dx >= Math.abs(dy), ArrowRight: (dx, dy) => dx > 0 && dx >= Math.abs(dy),
  ArrowUp: (dx, dy) => dy < 0 && -dy >= Math.abs(dx), ArrowDown: (dx, dy) => dy > 0 && dy >= Math.abs(dx),
};

$("map").addEventListener("keydown", (event) => {
  const allowed = ARROWS[event.key];
  if (!allowed || !state.view) return;
  event.preventDefault();
  const from = state.map.items[state.places.get(state.chosen)];
  if (!from) { choose(state.map.items[0][0]); return; }
  const { x, y } = placed();
  const item = nearest(x(from), y(from), 1e6, allowed);
  if (item !== null) choose(item);
});

$("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const item = $("item").value;
  if (item) choose(item);
});
$("map-version").addEventListener("change", (event) => {
  state.mapVersion = event.target.value;
  forgetMap();
  drawMap();
  readMap();
});
$("ask").addEventListener("submit", askUser);
document.querySelector("details").addEventListener("toggle", drawCurves);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
new ResizeObserver(() => { drawCurves(); drawMap(); }).observe($("main"));
document.addEventListener("visibilitychange", () => { if (!document.hidden) readMap(); });
setInterval(tell, 1000);
setInterval(readMap, MAP_MS);
connect();
