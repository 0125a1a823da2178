"use strict";
// What a user is recommended, by which version, and why.

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

$("ask").addEventListener("submit", askUser);
