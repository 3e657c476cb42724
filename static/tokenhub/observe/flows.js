// From requests to a graph, and nothing else: no page, no clock of its own.

export const LEVELS = ["client", "alias", "model", "provider"];
const MOST = 10; // of a level; the quieter ones are drawn as one

export function speedOf(ms) {
    if (ms === null) {
        return "none";
    }
    return ms < 1000 ? "fast" : ms <= 3000 ? "slow" : "very slow";
}

// The stations of one request: [level, name], from the client to the provider.
export function stations(request) {
    const found = [["client", request.api_key_name || "no client key"]];
    if (request.alias) {
        found.push(["alias", request.alias]);
    } else if (request.mode) {
        found.push(["alias", `mode ${request.mode}`]);
    } else if (request.model_id) {
        found.push(["alias", "named directly"]); // its lines would go behind this column's boxes else
    }
    if (!request.model_id) {
        return [...found, ["model", "refused"]];
    }
    found.push(["model", request.model_id]);
    return request.provider_id ? [...found, ["provider", request.provider_id]] : found;
}

// {nodes: [{id, level, name, health, requests, failed}], edges: [{id, from, to, requests, failed, ms, speed}]}; nodes
// in the order in which they are drawn. `health`: {providers, models}: states by name, {of}: providers by model; or null.
export function flowsOf(requests, health) {
    const counts = new Map();
    for (const request of requests) {
        for (const [level, name] of stations(request)) {
            const id = `${level} ${name}`;
            counts.set(id, (counts.get(id) ?? 0) + 1);
        }
    }
    const shown = new Set();
    for (const level of LEVELS) {
        [...counts].filter(([id]) => id.startsWith(`${level} `)).sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1))
            .slice(0, MOST).forEach(([id]) => shown.add(id));
    }
    const nodes = new Map();
    const edges = new Map();
    for (const request of requests) {
        const failed = request.status >= 400 ? 1 : 0;
        let before = null;
        for (const [level, name] of stations(request)) {
            const node = nodeOf(nodes, level, shown.has(`${level} ${name}`) ? name : "others", health);
            node.requests += 1;
            node.failed += failed;
            if (before !== null) {
                const edge = edgeOf(edges, before, node);
                edge.requests += 1;
                edge.failed += failed;
                if (!failed) {
                    edge.all.push(request.latency_ms);
                }
            }
            before = node;
        }
    }
    silent(health).slice(0, MOST).forEach(([id, provider]) => {
        const from = id === null ? null : nodeOf(nodes, "model", id, health);
        const to = nodeOf(nodes, "provider", provider, health);
        if (from !== null) {
            edgeOf(edges, from, to);
        }
    });
    for (const edge of edges.values()) {
        edge.ms = medianOf(edge.all);
        edge.speed = speedOf(edge.ms);
    }
    return { nodes: [...nodes.values()].sort(byPlace), edges: [...edges.values()] };
}

// Who is in trouble is drawn without any traffic, too: [model or null, provider].
function silent(health) {
    const models = Object.entries(health?.models ?? {}).filter(([, state]) => state !== "healthy");
    const providers = Object.entries(health?.providers ?? {}).filter(([, state]) => state !== "healthy");
    return [
        ...models.filter(([id]) => health.of[id]).map(([id]) => [id, health.of[id]]),
        ...providers.map(([id]) => [null, id]),
    ];
}

function nodeOf(nodes, level, name, health) {
    const id = `${level} ${name}`;
    let found = nodes.get(id);
    if (found === undefined) {
        const known = level === "provider" ? health?.providers : level === "model" ? health?.models : undefined;
        found = { id, level, name, health: known?.[name] ?? "", requests: 0, failed: 0 };
        nodes.set(id, found);
    }
    return found;
}

function edgeOf(edges, from, to) {
    const id = `${from.id} > ${to.id}`;
    let found = edges.get(id);
    if (found === undefined) {
        found = { id, from, to, requests: 0, failed: 0, ms: null, speed: "none", all: [] };
        edges.set(id, found);
    }
    return found;
}

function byPlace(one, other) {
    return LEVELS.indexOf(one.level) - LEVELS.indexOf(other.level) || (one.name < other.name ? -1 : 1);
}

function medianOf(numbers) {
    if (numbers.length === 0) {
        return null;
    }
    const sorted = [...numbers].sort((one, other) => one - other);
    return sorted[(sorted.length - 1) >> 1];
}
