"use strict";
// The server's event stream, and how the connection is.

const SILENT_MS = 5000; // without a picture: figures are old

function connect() {
  const source = new EventSource("feed");
  state.source = source;
  source.addEventListener("history", (event) => { state.history = JSON.parse(event.data); });
  source.addEventListener("curves", (event) => {
    state.curves = JSON.parse(event.data);
    drawCurves();
    drawSegments();
  });
  source.addEventListener("experiment", (event) => {
    state.experiment = JSON.parse(event.data);
    drawExperiment();
  });
  source.addEventListener("picture", (event) => {
    state.picture = JSON.parse(event.data);
    state.arrived = performance.now();
    state.first ??= state.arrived;
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

new ResizeObserver(() => { drawCurves(); drawExperiment(); drawMap(); }).observe($("main"));
setInterval(tell, 1000);
connect();
