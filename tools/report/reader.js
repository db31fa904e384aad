"use strict";
const test = JSON.parse(document.getElementById("test").textContent);
const at = (id) => document.getElementById(id);
const single = test.mode === "single";
const VIEWS = { crop: "close up", context: "with surroundings" };
const CHOICES = single ? ["real", "synthetic"] : ["left", "right"];
// axes of what is stored: from right to left, front to back, head to foot
const PLANES = [
  { name: "axial", axis: 2, across: 0, down: 1, edges: ["R", "L", "A", "P"] },
  { name: "coronal", axis: 1, across: 0, down: 2, edges: ["R", "L", "S", "I"] },
  { name: "sagittal", axis: 0, across: 1, down: 2, edges: ["A", "P", "S", "I"] },
];
let state = null; // reader, started, answers: what is kept
let trials = [];
let shown = null; // the trial in sight: sides, offsets in mm, field, since
let preset = 0;
let active = 0;
let spent = 0; // milliseconds of this trial before the last pause

// --- chance and key: as tools/studies/reader_test.py ---

function draws(text) {
  let state = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) state = Math.imul(state ^ byte, 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

function shuffled(list, draw) {
  const found = [...list];
  for (let i = found.length - 1; i > 0; i--) {
    const j = draw() % (i + 1);
    [found[i], found[j]] = [found[j], found[i]];
  }
  return found;
}

function order(reader) {
  const draw = draws(`${test.seed} ${reader}`);
  const all = [];
  for (const view of test.views) {
    const pairs = test.pairs.filter((pair) => pair.every((id) => test.lesions[id].pictures[view]));
    const sets = single ? pairs.flat().map((id) => [id]) : pairs;
    for (const set of shuffled(sets, draw)) all.push({ view, ids: shuffled(set, draw) });
  }
  return all;
}

function truth() {
  const draw = draws(test.test);
  const bytes = Uint8Array.from(atob(test.key), (c) => c.charCodeAt(0) ^ (draw() & 255));
  return JSON.parse(new TextDecoder().decode(bytes));
}

// --- pictures ---

const volumes = new Map();

function volume(id, view) {
  const name = `${id} ${view}`;
  if (!volumes.has(name)) volumes.set(name, unpacked(test.lesions[id].pictures[view]));
  if (volumes.size > 8) volumes.delete(volumes.keys().next().value);
  return volumes.get(name);
}

async function unpacked(picture) {
  const bytes = Uint8Array.from(atob(picture.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const halves = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = halves.length / 2;
  const levels = new Uint16Array(count);
  for (let i = 0; i < count; i++) {
    const before = i % picture.shape[0] ? levels[i - 1] : 0;
    levels[i] = before + (halves[i] << 8) + halves[count + i];
  }
  return { ...picture, levels };
}

function reach(picture) {
  const sides = picture.shape.map((n, k) => [picture.centre[k] + 0.5, n - picture.centre[k] - 0.5]);
  return sides.map((pair, k) => pair.map((n) => n * picture.spacing[k]));
}

function draw(canvas, picture, plane, offset, field, window) {
  const [low, high] = window;
  const { shape, spacing, centre, levels } = picture;
  const size = (canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio) || 1);
  const [w, h] = [shape[plane.across], shape[plane.down]];
  const level = Math.round(centre[plane.axis] + offset / spacing[plane.axis]);
  if (level < 0 || level >= shape[plane.axis]) return;
  const strides = [1, shape[0], shape[0] * shape[1]];
  const pixels = new ImageData(w, h);
  for (let row = 0; row < h; row++)
    for (let column = 0; column < w; column++) {
      const place = level * strides[plane.axis] + column * strides[plane.across] + row * strides[plane.down];
      const value = picture.low + picture.step * levels[place];
      const target = 4 * (row * w + column);
      pixels.data.fill((255 * (value - low)) / (high - low), target, target + 3);
      pixels.data[target + 3] = 255;
    }
  const whole = new OffscreenCanvas(w, h);
  whole.getContext("2d").putImageData(pixels, 0, 0);
  const scale = size / field;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [x, y] = [plane.across, plane.down].map((axis) => size / 2 - (centre[axis] + 0.5) * spacing[axis] * scale);
  context.drawImage(whole, x, y, w * spacing[plane.across] * scale, h * spacing[plane.down] * scale);
}

function drawAll() {
  if (!shown || at("trial").hidden) return;
  shown.sides.forEach(({ picture, windows, stages }) =>
    stages.forEach((stage, k) => {
      draw(stage.querySelector("canvas"), picture, PLANES[k], shown.offsets[k], shown.field, windows[preset].slice(1));
      stage.classList.toggle("active", k === active);
      const mm = shown.offsets[k];
      stage.querySelector(".depth").textContent = mm ? `${mm > 0 ? "+" : "\u2212"}${Math.abs(mm).toFixed(1)} mm` : "";
    }),
  );
  [...at("windows").children].forEach((button, k) => button.setAttribute("aria-pressed", k === preset));
}

function element(kind, name, parent, text = "") {
  const made = parent.appendChild(document.createElement(kind));
  made.className = name;
  made.textContent = text;
  return made;
}

function side(number, id) {
  const box = element("div", "side", at("sides"));
  const stages = PLANES.map((plane, k) => {
    const stage = element("div", "stage", box);
    element("canvas", "", stage);
    element("span", "plane", stage, plane.name);
    element("span", "depth", stage);
    for (const mark of ["first across", "last across", "first down", "last down"]) element("i", `mark ${mark}`, stage);
    ["left", "right", "top", "bottom"].forEach((edge, e) => element("span", `edge ${edge}`, stage, plane.edges[e]));
    const length = [50, 20, 10].find((mm) => mm < shown.field / 4) || 5;
    const bar = element("span", "scalebar", stage, `${length} mm`);
    bar.style.width = `${(100 * length) / shown.field}%`;
    stage.addEventListener("pointerenter", () => focus(k));
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      scroll(Math.sign(event.deltaY));
    }, { passive: false });
    return stage;
  });
  const labels = single ? ["This is real", "This is synthetic"] : [`The ${CHOICES[number]} one is synthetic`];
  labels.forEach((label, k) => element("button", "", box, label).addEventListener("click", () => answer(single ? k : number)));
  return { id, stages, windows: test.lesions[id].windows, picture: shown.pictures[number] };
}

function focus(plane) {
  active = plane;
  drawAll();
}

function scroll(steps) {
  const axis = PLANES[active].axis;
  const step = Math.max(...shown.pictures.map((picture) => picture.spacing[axis]));
  const reaches = shown.pictures.map((picture) => reach(picture)[axis]);
  const [before, after] = [0, 1].map((k) => Math.max(...reaches.map((pair) => pair[k])));
  const moved = shown.offsets[active] + steps * step;
  if (-before < moved && moved < after) shown.offsets[active] = Math.abs(moved) < 1e-6 ? 0 : moved;
  drawAll();
}

// --- the course of the test ---

const place = (reader) => `reader-test ${test.test} ${reader}`;

function stored(reader) {
  try {
    return JSON.parse(localStorage.getItem(place(reader)));
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(place(state.reader), JSON.stringify(state));
  } catch {
    at("trouble").hidden = false;
    at("trouble").textContent = "This browser keeps nothing: do not close the page before the answers are saved.";
  }
}

function sight(id) {
  for (const name of ["start", "pause", "trial", "end"]) at(name).hidden = name !== id;
  at("windows").hidden = id !== "trial";
}

function advance(always = false) {
  const done = state.answers.length;
  at("progress").value = done;
  at("progress").max = trials.length;
  if (done === trials.length) return finish();
  const trial = trials[done];
  const block = test.views.indexOf(trial.view);
  at("where").textContent = `${done + 1} of ${trials.length}, ${VIEWS[trial.view]}`;
  spent = 0;
  if (always || !done || trials[done - 1].view !== trial.view)
    return halt(`Part ${block + 1} of ${test.views.length}: ${VIEWS[trial.view]}`, done ? `${done} of ${trials.length} are answered.` : "Time counts from here.");
  show(trial);
}

function halt(title, text) {
  if (shown) spent += performance.now() - shown.since;
  shown = null;
  at("pause-title").textContent = title;
  at("pause-text").textContent = text;
  sight("pause");
}

async function show(trial) {
  const wanted = state.answers.length;
  const pictures = await Promise.all(trial.ids.map((id) => volume(id, trial.view)));
  if (!state || wanted !== state.answers.length || shown?.trial === trial) return;
  const field = 2 * Math.max(...pictures.flatMap((picture) => reach(picture).flat()));
  shown = { trial, pictures, field, offsets: [0, 0, 0], since: 0, sides: [] };
  at("sides").replaceChildren();
  at("sides").className = single ? "single" : "";
  shown.sides = trial.ids.map((id, k) => side(k, id));
  sight("trial");
  drawAll();
  shown.since = performance.now();
  trials[wanted + 1]?.ids.forEach((id) => volume(id, trials[wanted + 1].view));
}

function answer(choice) {
  if (!shown) return;
  const seconds = (spent + performance.now() - shown.since) / 1000;
  const { view, ids } = shown.trial;
  const now = new Date().toISOString();
  state.answers.push({ view, shown: ids, chosen: choice, seconds: Number(seconds.toFixed(2)), time: now });
  shown = null;
  keep();
  advance();
}

function undo() {
  if (!shown || !state.answers.length || trials[state.answers.length - 1].view !== shown.trial.view) return;
  state.answers.pop();
  shown = null;
  keep();
  advance();
}

function report() {
  const key = truth();
  const answers = state.answers.map((given) => {
    const made = given.shown.map((id) => key[id][0]);
    const synthetic = single ? made[0] : made.indexOf(1);
    const lesions = given.shown.map((id) => ({ id, name: key[id][1], synthetic: !!key[id][0], mm: test.lesions[id].mm }));
    return { ...given, shown: lesions, synthetic, right: given.chosen === synthetic };
  });
  const facts = { format: test.format, test: test.test, mode: test.mode, seed: test.seed, trials: trials.length };
  return { ...facts, reader: state.reader, started: state.started, saved: new Date().toISOString(), answers };
}

function download() {
  const content = JSON.stringify(report(), null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = `answers_${state.reader.replace(/[^\w-]/g, "_")}_${test.test.slice(0, 6)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function finish() {
  shown = null;
  at("where").textContent = "all answered";
  const answers = report().answers;
  at("result").replaceChildren();
  for (const view of test.views) {
    const own = answers.filter((given) => given.view === view);
    const row = element("tr", "", at("result"));
    element("th", "", row, VIEWS[view]);
    element("td", "figure", row, `${own.filter((given) => given.right).length} of ${own.length}`);
  }
  sight("end");
}

function begin(event) {
  event.preventDefault();
  const reader = at("name").value.trim();
  if (!reader) return;
  state = stored(reader) || { reader, started: new Date().toISOString(), answers: [] };
  trials = order(reader);
  at("save").hidden = false;
  keep();
  advance(true);
}

function readers() {
  try {
    const start = place("");
    return Object.keys(localStorage).filter((name) => name.startsWith(start)).map((name) => name.slice(start.length));
  } catch {
    return [];
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !at("start").hidden) return;
  if (!at("pause").hidden) {
    if (event.key === "Enter" && event.target !== at("go") && !event.repeat) show(trials[state.answers.length]);
    return;
  }
  if (!shown) return;
  const actions = {
    ArrowLeft: () => event.repeat || answer(0),
    ArrowRight: () => event.repeat || answer(1),
    ArrowUp: () => scroll(-1),
    ArrowDown: () => scroll(1),
    v: () => focus((active + 1) % 3),
    c: () => ((shown.offsets = [0, 0, 0]), drawAll()),
    u: undo,
    p: () => halt("Pause", "Time stands still."),
  };
  "123".split("").forEach((key, k) => (actions[key] = () => ((preset = k), drawAll())));
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden && shown) halt("Pause", "The page was out of sight; time stood still.");
});
window.addEventListener("resize", drawAll);

const names = Object.values(test.lesions)[0].windows.map(([name]) => name);
names.forEach((name, k) => element("button", "", at("windows"), `${k + 1} ${name}`).addEventListener("click", () => ((preset = k), drawAll())));
at("windows").hidden = true;
at("task").textContent = single
  ? "Each picture shows one lesion: one that a patient has, or one that a computer made in a real scan. Which is it?"
  : "Each pair shows a lesion that a patient has, and one that a computer made in the real scan of another. Which of the two is the synthetic one?";
at("choices").textContent = `the answer: ${CHOICES[0]}, ${CHOICES[1]}${single ? "" : " one is synthetic"}`;
at("question").textContent = single ? "\u2190 real, \u2192 synthetic" : "Which one is synthetic? \u2190 \u2192";
at("presets").textContent = `window: ${names.join(", ")}`;
for (const reader of readers()) element("option", "", at("known")).value = reader;
at("name").addEventListener("input", () => {
  const found = stored(at("name").value.trim());
  at("saved").textContent = found ? `goes on after ${found.answers.length} answers` : "";
});
at("form").addEventListener("submit", begin);
at("go").addEventListener("click", () => show(trials[state.answers.length]));
at("save").addEventListener("click", download);
at("download").addEventListener("click", download);
