"use strict";
// All works without: this adds lines between the lists, keys, and addresses of opened explanations.
const find = (selector, within = document) => [...within.querySelectorAll(selector)];
const query = document.getElementById("q");
const lines = document.querySelector(".lines");
const hits = (list) => new Map(find(`.${list} .hit`).map((hit) => [hit.dataset.key, hit]));
const before = hits("before");
const after = hits("after");

function draw() {
  if (!lines || !lines.clientWidth) return;
  const top = lines.getBoundingClientRect().top;
  const width = lines.clientWidth;
  lines.replaceChildren(...[...after].map(([key, hit]) => {
    const [from, to] = [before.get(key), hit].map((each) => each.querySelector(".place").getBoundingClientRect());
    const [y1, y2] = [from, to].map((box) => box.top + box.height / 2 - top);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const badge = hit.querySelector(".badge");
    if (badge) path.classList.add(badge.classList.contains("up") ? "rise" : badge.classList.contains("down") ? "fall" : "stay");
    path.dataset.key = key;
    path.setAttribute("d", `M4 ${y1}C${width / 2} ${y1} ${width / 2} ${y2} ${width - 4} ${y2}`);
    return path;
  }));
}

function twins(key) {
  find(".hit, .lines path").forEach((each) => each.classList.toggle("twin", each.dataset.key === key));
}

function show(hash) {
  const target = hash.length > 1 && document.getElementById(hash.slice(1));
  const hit = target && target.closest(".hit");
  if (!hit) return;
  document.getElementById(hit.closest(".before") ? "tab-before" : "tab-after").checked = true;
  if (target.tagName === "DETAILS") target.open = true;
  twins(hit.dataset.key);
  hit.scrollIntoView({ block: "nearest" });
  const inside = hit.querySelector("summary, a");
  if (inside) inside.focus({ preventScroll: true });
}

find(".hit").forEach((hit) => {
  for (const event of ["mouseenter", "focusin"]) hit.addEventListener(event, () => twins(hit.dataset.key));
});
find(".badge").forEach((badge) => badge.addEventListener("click", (event) => {
  event.preventDefault();
  show(badge.getAttribute("href"));
}));
find("details").forEach((details) => details.addEventListener("toggle", () => {
  const address = location.pathname + location.search;
  if (details.open) history.replaceState(null, "", `${address}#${details.id}`);
  else if (location.hash === `#${details.id}`) history.replaceState(null, "", address);
  draw();
}));
find("select").forEach((select) => select.addEventListener("change", () => {
  if (query.value.trim()) select.form.requestSubmit();
}));
query.form.addEventListener("submit", () => query.form.classList.add("busy"));
// A page that comes back from the browser's memory is not busy.
addEventListener("pageshow", () => query.form.classList.remove("busy"));
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
  event.preventDefault();
  query.select();
});
addEventListener("resize", draw);
addEventListener("hashchange", () => show(location.hash));
draw();
show(location.hash);
