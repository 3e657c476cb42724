/** The playground's form: targets, what they are sent, and the columns of their answers. */

import { Answer, nameOf } from "./playground_answer.js";
import { keyring } from "./playground_key.js";
import { codeOf, planTarget } from "./playground_request.js";

const MOST = 3;
const at = (id) => document.getElementById(id);
const facts = JSON.parse(at("facts").textContent);
const keys = keyring(facts.urls, at("ask").elements.csrfmiddlewaretoken.value);
const groups = [
  ...facts.targets,
  { name: "Plan modes", targets: facts.plan_modes.map((mode) => ({ id: planTarget(mode), label: `plan: ${mode}` })) },
];
let images = [];
let running = null;

// -- who answers
function addTarget(chosen) {
  const row = at("target-template").content.firstElementChild.cloneNode(true);
  const select = row.querySelector("select");
  for (const { name, targets } of groups) {
    const group = select.appendChild(document.createElement("optgroup"));
    group.label = name;
    for (const { id, label } of targets) group.append(new Option(label, id, false, id === chosen));
  }
  row.querySelector("button").addEventListener("click", () => {
    row.remove();
    changed();
  });
  at("targets").append(row);
  changed();
}

const targets = () => [...at("targets").querySelectorAll("select")].map((one) => one.value);

function nextTarget() {
  const taken = new Set(targets());
  const models = groups.find((one) => one.name === "Models")?.targets ?? [];
  return models.find(({ id }) => !taken.has(id))?.id ?? "auto";
}

// -- what is asked
const number = (id) => (at(id).value === "" ? null : Number(at(id).value));

function tools() {
  const text = at("tools").value.trim();
  let problem = "";
  let found = null;
  if (text) {
    try {
      found = JSON.parse(text);
      if (!Array.isArray(found)) problem = "A list is needed: [{…}].";
    } catch (error) {
      problem = error.message;
    }
  }
  at("tools-problem").textContent = problem;
  at("tools").setAttribute("aria-invalid", String(problem !== ""));
  return problem ? null : found;
}

function values() {
  return {
    prompt: at("prompt").value,
    system: at("system").value,
    images,
    tools: tools(),
    maxTokens: number("max-tokens"),
    temperature: number("temperature"),
    iterations: number("iterations"),
  };
}

function changed() {
  const chosen = targets();
  at("add").disabled = chosen.length >= MOST;
  const removers = at("targets").querySelectorAll("button");
  for (const one of removers) one.disabled = removers.length === 1;
  const select = at("code-target");
  const before = select.selectedIndex;
  select.replaceChildren(...chosen.map((one) => new Option(nameOf(one), one)));
  select.selectedIndex = Math.min(Math.max(before, 0), chosen.length - 1);
  at("code").textContent = codeOf(at("code-language").value, select.value, values(), location.origin);
}

const asDataUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });

async function takeImages() {
  images = await Promise.all([...at("images").files].map(asDataUrl));
  at("previews").replaceChildren(
    ...images.map((url, index) => {
      const image = new Image();
      image.src = url;
      image.alt = at("images").files[index].name;
      return image;
    }),
  );
  changed();
}

// -- the run
async function run() {
  if (running) return;
  const asked = values();
  if (!asked.prompt.trim() && !images.length) {
    at("prompt").focus();
    at("status").textContent = "A prompt is needed.";
    return;
  }
  if (at("tools").getAttribute("aria-invalid") === "true") {
    at("tools").closest("details").open = true;
    at("tools").focus();
    return;
  }
  running = new AbortController();
  at("run").disabled = true;
  at("stop").disabled = false;
  at("status").textContent = "Asking …";
  const answers = targets().map((target) => new Answer(target, facts.urls));
  at("answers").dataset.count = answers.length;
  at("answers").replaceChildren(...answers.map((one) => one.element));
  await Promise.all(answers.map((one) => one.run(keys, asked, running.signal)));
  running = null;
  at("run").disabled = false;
  at("stop").disabled = true;
  at("status").textContent = answers.length > 1 ? `${answers.length} answers are here.` : "The answer is here.";
}

async function copy() {
  const text = at("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    at("status").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(at("code"));
    at("status").textContent = "Marked: copy it with Ctrl + C.";
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  }
});
at("ask").addEventListener("input", changed);
at("prompt").addEventListener("input", () => keys.prepare().catch(() => {}), { once: true });
// before the theme's own listener, which looks for a field that only its own file inputs have
at("ask").addEventListener(
  "change",
  (event) => {
    if (event.target !== at("images")) return;
    event.stopPropagation();
    takeImages();
  },
  { capture: true },
);
at("add").addEventListener("click", () => addTarget(nextTarget()));
at("stop").addEventListener("click", () => running?.abort());
at("copy").addEventListener("click", copy);
at("code-target").addEventListener("change", changed);
at("code-language").addEventListener("change", changed);

const wanted = new URLSearchParams(location.search);
at("prompt").value = wanted.get("prompt") ?? "";
for (const target of wanted.getAll("target").slice(0, MOST)) addTarget(target);
if (!targets().length) addTarget("auto");
