"use strict";
const list = document.getElementById("all");
const cards = [...list.children];
const slider = document.getElementById("opacity");
const show = document.getElementById("show");
const state = document.getElementById("state");
const key = list.dataset.key;
let kept = {decisions: {}, opacity: 50};
let stored = true;
try {
  const found = JSON.parse(localStorage.getItem(key));
  if (found && typeof found.decisions === "object") kept = {...kept, ...found};
} catch { stored = false; }

function keep() {
  try { localStorage.setItem(key, JSON.stringify(kept)); } catch { stored = false; }
}
function decided(card) { return kept.decisions[card.dataset.name] || "undecided"; }
function named(decision) {
  return cards.filter(card => decided(card) === decision).map(card => card.dataset.name);
}
function draw(card) {
  const decision = decided(card);
  card.classList.toggle("accepted", decision === "accepted");
  card.classList.toggle("rejected", decision === "rejected");
  card.querySelector(".yes").setAttribute("aria-pressed", String(decision === "accepted"));
  card.querySelector(".no").setAttribute("aria-pressed", String(decision === "rejected"));
  card.hidden = show.value !== "all" && show.value !== decision;
}
function count() {
  const words = ["accepted", "rejected", "undecided"].map(each => `${named(each).length} ${each}`);
  state.textContent = words.join(", ") + (stored ? "" : "; this browser keeps nothing");
}
function decide(card, decision) {
  const at = cards.indexOf(card);
  if (decision === "undecided") delete kept.decisions[card.dataset.name];
  else kept.decisions[card.dataset.name] = decision;
  keep();
  draw(card);
  count();
  // a card that is no longer shown hands on the focus
  if (card.hidden) (cards.slice(at).find(each => !each.hidden) || show).focus();
}
function fade(value) {
  kept.opacity = Math.min(100, Math.max(0, value));
  slider.value = kept.opacity;
  document.documentElement.style.setProperty("--mask", kept.opacity / 100);
  keep();
}
function move(step) {
  const shown = cards.filter(card => !card.hidden);
  const at = shown.indexOf(document.activeElement.closest(".one"));
  const next = shown[Math.min(shown.length - 1, Math.max(0, at + step))];
  if (next) next.focus();
}
function download(decision) {
  const text = named(decision).map(name => name + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/plain"}));
  link.download = decision + ".txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

list.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  const card = button.closest(".one");
  const wanted = button.classList.contains("yes") ? "accepted" : "rejected";
  decide(card, decided(card) === wanted ? "undecided" : wanted);
});
slider.addEventListener("input", () => fade(Number(slider.value)));
show.addEventListener("change", () => cards.forEach(draw));
for (const decision of ["accepted", "rejected"])
  document.getElementById("save-" + decision).addEventListener("click", () => download(decision));
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const card = event.target.closest(".one");
  const decision = {a: "accepted", r: "rejected", u: "undecided"}[event.key];
  const step = {j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1}[event.key];
  const change = {"+": 10, "=": 10, "-": -10, "0": -100}[event.key];
  if (decision && card) decide(card, decision);
  else if (step) move(step);
  else if (change) fade(kept.opacity + change);
  else return;
  event.preventDefault();
});
fade(kept.opacity);
cards.forEach(draw);
count();
