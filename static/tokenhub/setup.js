// The set-up: what a chosen preset fills in, which models are shown and ticked, tabs, and the test request, which goes to
// /v1 as any client's does. Listens on the document, for htmx puts the parts in and out.
"use strict";

// Steps have addresses, and back leads through them, by loading each anew: nothing of a page is kept in the browser, as
// one of them shows a key.
window.htmx.config.historyCacheSize = 0;
window.htmx.config.refreshOnHistoryMiss = true;

// -- a new part has come: go on there ------------------------------------------------------------------------------------
document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.id === "setup") {
        const wrong = event.target.querySelector(".errors input, .errors textarea");
        (wrong || event.target.querySelector("[data-focus]"))?.focus();
        applyPreset(event.target, false);
    }
});

// -- presets ---------------------------------------------------------------------------------------------------------------
function applyPreset(root, overwrite) {
    const chosen = root.querySelector("input[name=preset]:checked");
    if (!chosen) {
        return;
    }
    const { address, note, keysAt } = chosen.dataset;
    const form = chosen.form;
    for (const [field, value] of [["base_url", address], ["name", chosen.value === "custom" ? "" : chosen.value]]) {
        const input = form.elements[field];
        if (overwrite || !input.value) {
            input.value = value;
        }
    }
    document.getElementById("preset-note").textContent = note || (keysAt ? `Keys are made at ${keysAt}.` : "");
    if (overwrite) {
        form.elements.credential.value = "";
        document.getElementById("connection").replaceChildren();
    }
}

document.addEventListener("change", (event) => {
    if (event.target.matches("input[name=preset]")) {
        applyPreset(document, true);
    }
});
document.addEventListener("DOMContentLoaded", () => applyPreset(document, false));

// -- models ----------------------------------------------------------------------------------------------------------------
document.addEventListener("input", (event) => {
    const table = event.target.dataset?.finds && document.getElementById(event.target.dataset.finds);
    if (table) {
        const wanted = event.target.value.toLowerCase();
        for (const model of table.tBodies) {
            model.hidden = !model.querySelector("th").textContent.toLowerCase().includes(wanted);
        }
    }
});

document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.dataset?.finds) {
        event.preventDefault();  // it finds while one types, and must not add models
    }
});

document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-ticks]");
    if (button) {
        for (const box of document.querySelectorAll(`#${button.dataset.ticks} tbody:not([hidden]) input[name=model]`)) {
            box.checked = "on" in button.dataset;
            syncRow(box);
        }
    }
});

// What is not ticked is not sent, for a list of hundreds would be too long a form; but what was typed is.
function syncRow(box) {
    const inputs = [...box.closest("tbody").querySelectorAll("input[data-offered]")];
    const isTyped = inputs.some((input) => input.type === "checkbox" ? input.checked !== (input.dataset.offered === "1")
        : input.value !== input.dataset.offered);
    for (const input of inputs) {
        input.disabled = !box.checked && !isTyped;
    }
}

document.addEventListener("change", (event) => {
    if (event.target.matches("#offers input[name=model]")) {
        syncRow(event.target);
    }
});

// -- tabs, by the pattern of the ARIA authoring practices ------------------------------------------------------------------
function selectTab(tab) {
    for (const other of tab.parentElement.children) {
        const chosen = other === tab;
        other.setAttribute("aria-selected", String(chosen));
        other.tabIndex = chosen ? 0 : -1;
        document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
}

document.addEventListener("click", (event) => {
    const tab = event.target.closest("[data-tabs] [role=tab]");
    if (tab) {
        selectTab(tab);
    }
});

document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[data-tabs] [role=tab]");
    if (!tab) {
        return;
    }
    const tabs = [...tab.parentElement.children];
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step ? tabs.at((tabs.indexOf(tab) + step) % tabs.length)
        : { Home: tabs[0], End: tabs.at(-1) }[event.key];
    if (next) {
        event.preventDefault();
        selectTab(next);
        next.focus();
    }
});

// -- the test request ------------------------------------------------------------------------------------------------------
function note(kind, ...lines) {
    const box = document.createElement("div");
    box.className = `th-note ${kind}`;
    for (const line of lines.filter(Boolean)) {
        box.append(Object.assign(document.createElement("p"), { textContent: line }));
    }
    document.getElementById("answer").replaceChildren(box);
}

async function send(form) {
    const key = form.elements.key?.value.trim() || document.getElementById("issued-key")?.textContent.trim();
    const started = performance.now();
    document.getElementById("request-row").replaceChildren();
    note("", "Waiting for the answer …");
    let answer, body;
    try {
        answer = await fetch("/v1/chat/completions", {
            method: "POST",
            credentials: "omit",
            headers: { "Authorization": `Bearer ${key}`, "Content-Type": "application/json" },
            body: JSON.stringify({
                model: form.elements.model.value,
                messages: [{ role: "user", content: form.elements.message.value }],
            }),
        });
        body = await answer.json();
    } catch (problem) {
        note("th-bad", `There was no answer: ${problem.message}`);
        return;
    }
    const took = `${Math.round(performance.now() - started)} ms`;
    if (answer.ok) {
        note("th-fine", body.choices?.[0]?.message?.content || "The answer is empty.",
             `${answer.headers.get("x-tokenhub-model")} at ${answer.headers.get("x-tokenhub-provider")}, ${took}`);
    } else {
        note("th-bad", `${answer.status}: ${body.error?.message || "no reason given"}`, body.error?.hint, took);
    }
    const id = answer.headers.get("x-tokenhub-request-id");
    if (id && answer.status !== 401) {
        const url = form.dataset.rows.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, id);
        window.htmx.ajax("GET", url, { target: "#request-row", swap: "innerHTML" });
    }
}

document.addEventListener("submit", async (event) => {
    if (event.target.matches("form[data-request]")) {
        event.preventDefault();
        const button = event.target.querySelector("[type=submit]");
        button.disabled = true;
        await send(event.target);
        button.disabled = false;
    }
});
