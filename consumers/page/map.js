"use strict";
// The map of items, and an item's neighbours.

const MAP_MS = 10000;

function offerMaps() {
  const able = state.picture.versions.filter((one) => one.vectors).map((one) => one.version);
  const list = $("map-version");
  if (list.dataset.names !== able.join("\n")) {
    list.dataset.names = able.join("\n");
    list.replaceChildren(...able.map((name) => make("option", { value: name }, name)));
    list.hidden = able.length < 2;
    if (!able.includes(state.mapVersion) || (!state.mapPicked && state.mapVersion !== able[0])) {
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
  state.mapPicked = true;
  forgetMap();
  drawMap();
  readMap();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
document.addEventListener("visibilitychange", () => { if (!document.hidden) readMap(); });
setInterval(readMap, MAP_MS);
