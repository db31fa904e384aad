"use strict";
const lesions = [...document.querySelectorAll(".lesion")];
const links = [...document.querySelectorAll(".bar nav a")];
let current = -1;

function wipe(lesion, percent) {
  const value = Math.min(100, Math.max(0, percent));
  lesion.querySelector("input").value = value;
  lesion.style.setProperty("--wipe", value + "%");
}

function outline(lesion, shown) {
  lesion.classList.toggle("outlined", shown);
  lesion.querySelector(".toggle").setAttribute("aria-pressed", shown);
}

function choose(index) {
  current = index;
  lesions.forEach((lesion, place) => lesion.classList.toggle("here", place === index));
  const scan = lesions[index].closest(".scan").id;
  links.forEach((link) => {
    const target = link.hash.slice(1);
    const here = target === scan || target === lesions[index].id;
    link.classList.toggle("here", here);
    // with many scans the bar is longer than the page is wide
    if (here) link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 60;
  });
}

lesions.forEach((lesion, index) => {
  const slider = lesion.querySelector("input");
  slider.addEventListener("input", () => wipe(lesion, Number(slider.value)));
  lesion.querySelector(".toggle").addEventListener("click", () => outline(lesion, !lesion.classList.contains("outlined")));
  lesion.addEventListener("pointerenter", () => choose(index));
  lesion.addEventListener("focusin", () => choose(index));
  lesion.querySelectorAll(".stage.after").forEach((stage) => {
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      wipe(lesion, (100 * (event.clientX - box.left)) / box.width);
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      follow(event);
    });
    stage.addEventListener("pointermove", (event) => {
      if (stage.hasPointerCapture(event.pointerId)) follow(event);
    });
    stage.addEventListener("dblclick", () => wipe(lesion, 100));
  });
});

let held = null;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !lesions.length) return;
  if (event.key === "j" || event.key === "k") {
    const next = Math.min(lesions.length - 1, Math.max(0, current + (event.key === "j" ? 1 : -1)));
    choose(next);
    lesions[next].focus({ preventScroll: true });
    lesions[next].scrollIntoView();
  } else if (event.key === "o") {
    const shown = !lesions.every((lesion) => lesion.classList.contains("outlined"));
    lesions.forEach((lesion) => outline(lesion, shown));
  } else if (event.key === "b" && held === null) {
    held = lesions.map((lesion) => lesion.querySelector("input").value);
    lesions.forEach((lesion) => wipe(lesion, 0));
  }
});
document.addEventListener("keyup", (event) => {
  if (event.key !== "b" || held === null) return;
  lesions.forEach((lesion, index) => wipe(lesion, Number(held[index])));
  held = null;
});
window.addEventListener("blur", () => {
  if (held !== null) lesions.forEach((lesion, index) => wipe(lesion, Number(held[index])));
  held = null;
});
