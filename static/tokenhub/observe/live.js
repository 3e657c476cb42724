// The live page: listens, keeps what came in the last minutes, and hands it to graph, table and feed.
import { dollars } from "../money.js";
import { badge, cell, Feed } from "./feed.js";
import { flowsOf } from "./flows.js";
import { Graph } from "./graph.js";

const page = document.getElementById("live");
const told = document.getElementById("flow-told");
const table = document.querySelector("#flow-table tbody");
const connection = document.getElementById("live-connection");
const only = document.getElementById("feed-only");
const window_ms = Number(page.dataset.minutes) * 60_000;
const TURN_MS = 400;
const AGAIN_MS = 5000;
const MOST = 5000;
const feed = new Feed(page);
const graph = new Graph(document.getElementById("flow-graph"), told, choose);
let requests = []; // {at, ...}, as they came
let health = null;
let isDirty = true;
let drawnAt = 0;

// -- what comes in ---------------------------------------------------------------------------------------------------
function take(request, at) {
    if (feed.add({ at, key: request.request_id, request })) {
        requests.push({ ...request, at });
        isDirty = true;
    }
}

async function catchUp() {
    try {
        const answer = await fetch(page.dataset.flowsUrl);
        if (answer.redirected) {
            location.reload();
            return;
        }
        if (!answer.ok) {
            throw new Error(`status ${answer.status}`);
        }
        const found = await answer.json();
        health = found.health;
        isDirty = true;
        found.requests.reverse().forEach((one) => take(one, Date.parse(one.timestamp)));
    } catch (problem) {
        connected(`what was before could not be fetched (${problem.message})`, "bad");
    }
}

const NEWS = {
    health_change: (data) => [`${data.model_id ? `${data.model_id} at ` : ""}${data.provider_id} is ${data.to}, was ${data.from}${data.last_error ? `: ${data.last_error}` : ""}`, { healthy: "good", degraded: "warn", down: "bad" }[data.to]],
    vault_change: (data) => [`vault: ${data.action}${data.secret ? ` ${data.secret}` : ""}`, "warn"],
    budget_threshold: (data) => [`${data.percent} % of a budget are spent: ${dollars(data.spent_usd)} of ${dollars(data.amount_usd)}`, data.percent >= 100 ? "bad" : "warn"],
    budget_overrun: (data) => [`an answer cost ${dollars(data.overrun_usd)} more than was reserved`, "warn"],
    escalation: (data) => [`too long for ${data.too_small.join(", ")}${data.model_id ? `; ${data.model_id} was asked` : ""}`, "warn"],
    gap: (data) => [`${data.missed ?? "some"} events are not shown here (${data.reason}); the request log has all requests`, "warn"],
};

function listen() {
    const types = ["route_success", "route_error", ...Object.keys(NEWS).filter((name) => name !== "gap")];
    const source = new EventSource(`${page.dataset.eventsUrl}?types=${types.join(",")}`);
    source.onopen = () => {
        connected("live", "good");
        catchUp();
        setTimeout(catchUp, AGAIN_MS); // what was on its way into the log when the stream began
    };
    source.onerror = () => {
        if (source.readyState === EventSource.CLOSED) {
            connected("the server refuses; asked again in 5 s", "bad");
            setTimeout(listen, AGAIN_MS);
        } else {
            connected("connecting again…", "warn");
        }
    };
    for (const name of ["route_success", "route_error"]) {
        source.addEventListener(name, (event) => {
            const { data, timestamp } = JSON.parse(event.data);
            take(data, Date.parse(timestamp));
        });
    }
    for (const [name, tell] of Object.entries(NEWS)) {
        source.addEventListener(name, (event) => {
            const { data, timestamp } = JSON.parse(event.data);
            const [news, mood] = tell(data);
            feed.add({ at: Date.parse(timestamp), key: event.lastEventId, kind: name.replace("_", " "), news, mood });
            if (name === "health_change" && health !== null) {
                const [of, id] = data.model_id ? [health.models, data.model_id] : [health.providers, data.provider_id];
                of[id] = data.to;
            }
            isDirty = true;
        });
    }
}

function connected(text, mood) {
    connection.textContent = text;
    connection.className = `ob-badge ob-is-${mood}`;
}

// -- what is shown ---------------------------------------------------------------------------------------------------
function turn() {
    const now = Date.now();
    if (!document.hidden && (isDirty || now - drawnAt > 10_000)) {
        isDirty = false;
        drawnAt = now;
        requests = requests.filter((one) => one.at > now - window_ms).slice(-MOST);
        const flows = flowsOf(requests, health);
        graph.show(flows);
        tabulate(flows);
        feed.render();
    }
}

function tabulate(flows) {
    const focused = table.contains(document.activeElement) ? document.activeElement.dataset.button : undefined;
    table.replaceChildren(
        ...flows.edges.sort((one, other) => other.requests - one.requests).map((edge) => {
            const row = document.createElement("tr");
            for (const node of [edge.from, edge.to]) {
                const button = document.createElement("button");
                button.type = "button";
                button.className = "ob-link";
                button.dataset.node = node.id;
                button.dataset.button = `${edge.id} ${node.level}`;
                button.textContent = node.name;
                const words = cell(row, "");
                words.append(button, ` (${node.level})`);
            }
            const state = cell(row, "");
            if (edge.to.health) {
                badge(state, edge.to.health, { healthy: "good", degraded: "warn", down: "bad" }[edge.to.health]);
            }
            cell(row, edge.requests.toLocaleString("en"), "ob-number");
            cell(row, edge.failed.toLocaleString("en"), edge.failed ? "ob-number ob-worse" : "ob-number");
            cell(row, edge.ms === null ? "-" : `${edge.ms.toLocaleString("en")} ms`, "ob-number");
            badge(cell(row, ""), edge.speed === "none" ? (edge.requests ? "no answer" : "no traffic") : edge.speed, { fast: "good", slow: "warn", "very slow": "bad", none: "bad" }[edge.speed]);
            return row;
        }),
    );
    if (focused !== undefined) {
        table.querySelector(`[data-button="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
}

function choose(id) {
    feed.only = id;
    only.hidden = id === null;
    only.textContent = id === null ? "" : `Only ${id} ✕`;
    feed.render();
}

table.addEventListener("click", (event) => {
    const button = event.target.closest("[data-node]");
    if (button) {
        graph.pick(button.dataset.node);
    }
});
only.addEventListener("click", () => graph.pick(null));
document.getElementById("feed-outcome").addEventListener("change", (event) => {
    feed.outcome = event.target.value;
    feed.render();
});
document.getElementById("feed-text").addEventListener("input", (event) => {
    feed.text = event.target.value.trim().toLowerCase();
    feed.render();
});
document.getElementById("feed-pause").addEventListener("click", (event) => {
    feed.pause(!feed.isPaused);
    event.target.setAttribute("aria-pressed", String(feed.isPaused));
    event.target.textContent = feed.isPaused ? "Go on" : "Pause";
    feed.render();
});

listen();
setInterval(turn, TURN_MS);
