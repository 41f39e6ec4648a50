"use strict";

const root = document.documentElement;
const slider = document.getElementById("opacity");
const percents = { heat: 50, signed: 80 };
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

function style() {
  return document.querySelector("input[name=style]:checked").value;
}

function showOpacity() {
  slider.value = percents[style()];
  document.querySelector("output").textContent = `${slider.value} %`;
}

function setOpacity() {
  percents[style()] = Number(slider.value);
  root.style.setProperty(`--${style()}-opacity`, slider.value / 100);
  showOpacity();
}

function choose(explorer, button) {
  for (const other of explorer.querySelectorAll("button")) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  const [label, facts] = explorer.querySelectorAll(".chosen bdi, .chosen span");
  label.textContent = button.textContent;
  facts.textContent = button.dataset.facts;
  const picture = explorer.querySelector("svg");
  picture.querySelector(".map").setAttribute("href", `#${button.dataset.map}`);
  picture.setAttribute("aria-label", `The map of ${button.textContent}. ${button.dataset.facts}`);
}

function move(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  const ends = { Home: 0, End: buttons.length - 1 };
  const next = ends[event.key] ?? buttons.indexOf(event.target) + (STEPS[event.key] ?? NaN);
  if (buttons[next]) {
    event.preventDefault();
    buttons[next].focus();
  }
}

for (const hidden of document.querySelectorAll(".scripted")) {
  hidden.hidden = false;
}
for (const explorer of document.querySelectorAll(".explorer")) {
  const buttons = explorer.querySelectorAll("button");
  for (const button of buttons) {
    for (const event of ["pointerenter", "focus", "click"]) {
      button.addEventListener(event, () => choose(explorer, button));
    }
  }
  explorer.querySelector(".labels").addEventListener("keydown", move);
  const linked = explorer.querySelector(`[data-map="map-${CSS.escape(location.hash.slice(1))}"]`);
  choose(explorer, linked ?? buttons[0]);
}
for (const radio of document.querySelectorAll("input[name=style]")) {
  radio.addEventListener("change", showOpacity);
}
slider.addEventListener("input", setOpacity);
showOpacity();
