"use strict";
// Which group is shown, what its controls say, and when to draw.

function option(plot, name) {
  return plot.parentElement.querySelector(`[data-option=${name}]`).value;
}

function groupOf(plot) {
  const section = plot.closest("[data-group]");
  return section ? DATA.groups[Number(section.dataset.group)] : null;
}

function draw(plot) {
  return PLOTS[plot.dataset.plot](plot, groupOf(plot), theme());
}

// Each picture is in the file once, wherever it is shown.
function showPictures() {
  for (const image of document.querySelectorAll("img[data-picture]")) {
    image.src = DATA.groups[0].pictures[Number(image.dataset.picture)];
    image.removeAttribute("data-picture");
  }
}

async function drawVisible() {
  if (DATA === null) return;
  document.body.dataset.ready = "false";
  showPictures();
  if (typeof fillVisible === "function") fillVisible();
  const plots = [...document.querySelectorAll("[data-plot]")].filter((plot) => !plot.closest("[hidden]"));
  for (const plot of plots) {
    try {
      await draw(plot);
    } catch (error) {
      window.__errors.push(plot.dataset.plot + ": " + error);
      plot.textContent = "This figure could not be drawn: " + error;
    }
  }
  document.body.dataset.ready = "true";
}

function choose(number) {
  for (const section of document.querySelectorAll("[data-group]")) {
    section.hidden = section.dataset.group !== String(number);
  }
  for (const button of document.querySelectorAll("button[data-choose]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choose === String(number)));
  }
  const list = document.getElementById("choose");
  if (list) list.value = String(number);
  drawVisible();
}

document.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-choose]");
  if (chosen) choose(chosen.dataset.choose);
});

document.addEventListener("change", (event) => {
  if (event.target.id === "choose") choose(event.target.value);
  if (event.target.dataset.option) draw(event.target.closest("figure").querySelector("[data-plot]"));
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawVisible);
// On paper everything is seen, so everything that is folded is opened.
window.addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});

// Pages without a table of latents have no `openNamed`.
const openFromAddress = () => { if (typeof openNamed === "function") openNamed(); };
window.addEventListener("hashchange", openFromAddress);
load().then(drawVisible).then(openFromAddress);
