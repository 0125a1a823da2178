"use strict";
// Arms of the newest experiment: how many users entered, and the always-valid intervals as they draw in.

const VERDICTS = { better: "better", worse: "worse", undecided: "not decided yet", withheld: "withheld" };

function drawExperiment() {
  const found = state.experiment;
  const empty = $("experiment-empty"), body = $("experiment-body");
  empty.hidden = Boolean(found && !found.error);
  body.hidden = !empty.hidden;
  if (body.hidden) {
    $("experiment-name").textContent = "Experiment";
    empty.className = found?.error ? "problem" : "empty";
    empty.textContent = found?.error
      || "There is no experiment. “freshet experiment create” divides the users among versions and compares what they do.";
    $("experiment-tag").hidden = true;
    return;
  }
  $("experiment-name").textContent = "Experiment " + found.name;
  $("experiment-tag").hidden = false;
  $("experiment-tag").textContent = found.state === "concluded" ? `concluded: ${found.winner}` : found.state;
  $("experiment-words").textContent = experimentWords(found);
  tellTrouble(found);
  drawArms(found);
  drawLifts(found);
}

function experimentWords(found) {
  const parts = [`counts ${found.metric}`, `${number(found.users)} users entered`];
  if (found.open) parts.push(`${number(found.open)} ${found.open === 1 ? "window" : "windows"} open`);
  if (known(found.began)) parts.push("since " + new Date(found.began * 1000).toLocaleString());
  if (known(found.joined)) parts.push("joined until " + clock(found.joined));
  if (found.why) parts.push(found.why);
  return parts.join(" · ");
}

// What makes the figures wrong or old, before anybody believes them.
function tellTrouble(found) {
  const words = [];
  if (!found.sample_ratio.fits) words.push(found.sample_ratio.reason);
  if (found.state === "running" && found.joiner === null) words.push("Nothing joins outcomes now: start “freshet outcomes”.");
  else if (found.state === "running" && found.joiner !== "well") words.push(`“freshet outcomes” ${found.joiner}: these figures are old.`);
  for (const [arm, one] of Object.entries(found.challengers)) {
    if (one.guardrail.state === "acted") words.push(`${arm}: ${one.guardrail.reason}.`);
  }
  const place = $("experiment-trouble");
  place.hidden = !words.length;
  if (place.dataset.words === words.join("\n")) return;
  place.dataset.words = words.join("\n");
  place.replaceChildren(...words.map((one) => make("span", {}, one)));
}

const signed = (value) => (known(value) ? (value < 0 ? "−" : "+") + percent(Math.abs(value)) : "–");
const bound = (value, without) => (known(value) ? signed(value) : without);

function drawArms(found) {
  const rows = Object.entries(found.arms).map(([arm, one]) => {
    const other = found.challengers[arm];
    const mean = found.measure === "conversion" ? percent(one.mean) : known(one.mean) ? one.mean.toFixed(3) : "–";
    const interval = other && other.lift_interval
      ? `${bound(other.lift_interval[0], "no bound")} to ${bound(other.lift_interval[1], "no bound")}` : "";
    return make("tr", {},
      make("th", { scope: "row", class: hue(arm) }, make("i", { class: "swatch", "aria-hidden": "true" }), arm),
      make("td", { class: "rest" }, percent(one.share)), make("td", {}, number(one.users)),
      make("td", { class: "rest" }, number(one.users_with_outcome)),
      make("td", {}, mean),
      make("td", {}, other ? signed(other.lift) : "", ...(interval ? [make("br"), make("small", {}, interval)] : [])),
      make("td", { class: "verdict" }, other ? make("b", { class: other.verdict }, VERDICTS[other.verdict] || other.verdict) : "baseline",
        ...(other ? [make("small", { class: "rest" }, make("br"), other.reason)] : [])));
  });
  $("experiment-arms").replaceChildren(
    make("caption", { class: "unseen" }, "Arms of the experiment, with lift over the first one and its always-valid interval"),
    head(["Arm", "Share", "Users", "With outcome", "Mean", "Lift", "Verdict"]), make("tbody", {}, ...rows));
}

function drawLifts(found) {
  const chart = $("experiment-chart");
  const lines = Object.entries(found.looks)
    .map(([arm, looks]) => ({ arm, looks: looks.filter((look) => known(look[1])), guardrail: found.challengers[arm].guardrail.lift }))
    .filter((line) => line.looks.length);
  const figure = chart.closest("figure");
  figure.hidden = !lines.length;
  if (!lines.length) return;
  const width = Math.max(280, chart.clientWidth), height = chart.clientHeight || 240;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const left = 56, right = 14, top = 12, bottom = 26;
  const most = Math.max(...lines.map((line) => line.looks[line.looks.length - 1][0]));
  const { low, high, step } = liftScale(lines);
  const x = (users) => left + (width - left - right) * users / most;
  const y = (lift) => top + (height - top - bottom) * (high - Math.max(low, Math.min(high, lift))) / (high - low);
  const parts = [];
  for (let lift = low; lift <= high + 1e-9; lift += step) {
    const zero = Math.abs(lift) < step / 2;
    parts.push(draw("line", { class: zero ? "zero" : "grid", x1: left, x2: width - right, y1: y(lift), y2: y(lift) }));
    parts.push(draw("text", { x: left - 8, y: y(lift) + 4, "text-anchor": "end" }, zero ? "0\u00a0%" : rounded(signed(lift))));
  }
  const along = nice(most, width < 500 ? 3 : 6);
  for (let users = along; users <= most; users += along) {
    const anchor = x(users) > width - 40 ? "end" : "middle";
    parts.push(draw("text", { x: x(users), y: height - 6, "text-anchor": anchor }, tick.format(users)));
  }
  parts.push(draw("text", { x: left, y: height - 6 }, "users"));
  for (const { arm, looks, guardrail } of lines) {
    const group = draw("g", { class: hue(arm) });
    const at = (look, value) => `${x(look[0]).toFixed(1)} ${y(value).toFixed(1)}`;
    const upper = looks.map((look) => at(look, look[3] ?? high)), lower = looks.map((look) => at(look, look[2] ?? low));
    group.append(draw("path", { class: "band", d: "M" + upper.concat(lower.reverse()).join("L") + "Z" }));
    group.append(draw("path", { class: "line", d: "M" + looks.map((look) => at(look, look[1])).join("L") }));
    if (known(guardrail) && guardrail > low) {
      group.append(draw("line", { class: "guardrail", x1: left, x2: width - right, y1: y(guardrail), y2: y(guardrail) },
        draw("title", {}, `guardrail of ${arm}: ${signed(guardrail)}`)));
    }
    parts.push(group);
  }
  chart.replaceChildren(...parts);
  $("experiment-lifts").textContent = lines.map(({ arm, looks }) => {
    const [users, lift, lower, upper] = looks[looks.length - 1];
    return `${arm}: lift ${signed(lift)}, ${bound(lower, "no lower bound")} to ${bound(upper, "no upper bound")} at ${number(users)} users`;
  }).join("; ") + ".";
}

// First intervals are far wider than what they come to: the scale fits the later ones.
function liftScale(lines) {
  const later = lines.flatMap(({ looks, guardrail }) => looks.slice(Math.floor(looks.length / 4))
    .flatMap((look) => look.slice(1)).concat([guardrail]).filter(known));
  const ends = [-0.02, 0.02, ...later.map((value) => Math.max(-1, Math.min(2, value)))];
  const step = nice(Math.max(...ends) - Math.min(...ends), 5);
  return { step, low: Math.floor(Math.min(...ends) / step) * step, high: Math.ceil(Math.max(...ends) / step) * step };
}
