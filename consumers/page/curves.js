"use strict";
// Hit rates along the stream with their intervals, and by segment.

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
    parts.push(draw("text", { x: x(at), y: height - 6, "text-anchor": anchor }, tick.format(at)));
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

document.querySelector("details").addEventListener("toggle", drawCurves);
