"use strict";
// A card for each version that serves or is being learned, and what screen readers are told of it.

const OLD_S = 10; // seconds after which a version's own figures are greyed
const KEPT = 300; // points of a sparkline

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
  const share = one.arm && known(one.share) && one.share > 0 ? " · " + rounded(percent(one.share)) : "";
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
