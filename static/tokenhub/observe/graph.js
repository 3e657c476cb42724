// Draws flows with cytoscape in four columns, and lets arrow keys walk through them.
import { LEVELS } from "./flows.js";
import { colour, onTheme } from "./theme.js";

const ROW = 52;
const LINES = { fast: "solid", slow: "dashed", "very slow": "dotted", none: "solid" };
const HUES = { fast: "good", slow: "yellow", "very slow": "bad", none: "quiet", healthy: "good", degraded: "warn", down: "bad" };

export class Graph {
    // `chosen`: called with a node's id, or null, when somebody picks one.
    constructor(place, told, chosen) {
        this.place = place;
        this.told = told;
        this.chosen = chosen;
        this.flows = { nodes: [], edges: [] };
        this.at = null;
        this.cy = cytoscape({
            container: place,
            userZoomingEnabled: false,
            userPanningEnabled: false,
            boxSelectionEnabled: false,
            autoungrabify: true,
            style: this.style(),
        });
        this.cy.on("tap", "node", (event) => this.pick(event.target.id()));
        this.cy.on("tap", (event) => event.target === this.cy && this.pick(null));
        place.addEventListener("keydown", (event) => this.key(event));
        place.addEventListener("focus", () => this.go(this.at ?? this.flows.nodes[0]?.id ?? null));
        onTheme(() => this.cy.style(this.style()));
        new ResizeObserver(() => {
            this.cy.resize();
            this.arrange();
        }).observe(place);
    }

    style() {
        const text = colour("text");
        const of = (name) => colour(HUES[name] ?? "quiet");
        return [
            {
                selector: "node",
                style: {
                    shape: "round-rectangle", width: "data(width)", height: 34, "background-color": colour("card"),
                    "border-width": 2, "border-color": colour("quiet"), label: "data(label)", color: text,
                    "font-family": "Inter, sans-serif", "font-size": "data(size)", "text-valign": "center",
                    "text-wrap": "ellipsis", "text-max-width": "data(inner)",
                },
            },
            ...["healthy", "degraded", "down"].map((name) => ({
                selector: `node[health = "${name}"]`, style: { "border-color": of(name) },
            })),
            { selector: 'node[health = "degraded"]', style: { "border-width": 3, "background-color": colour("warn-soft") } },
            { selector: 'node[health = "down"]', style: { "border-width": 4, "background-color": colour("bad-soft"), "border-style": "double" } },
            { selector: "node[?refused]", style: { "border-color": colour("bad"), "border-style": "dashed" } },
            {
                selector: "edge",
                style: {
                    "curve-style": "straight", "source-endpoint": "90deg", "target-endpoint": "270deg", width: "data(width)", "line-color": of("none"), opacity: 0.85,
                },
            },
            ...["fast", "slow", "very slow"].map((name) => ({
                selector: `edge[speed = "${name}"]`, style: { "line-color": of(name), "line-style": LINES[name] },
            })),
            { selector: ".at", style: { "overlay-color": colour("link"), "overlay-opacity": 0.18, "overlay-padding": 5 } },
            { selector: ".off", style: { opacity: 0.2 } },
        ];
    }

    show(flows) {
        this.flows = flows;
        const most = Math.max(1, ...flows.edges.map((one) => one.requests));
        const wanted = new Map();
        for (const one of flows.nodes) {
            const { id, health, name } = one;
            wanted.set(id, { group: "nodes", data: { id, health, label: name, refused: name === "refused", width: 60, inner: 50, size: 12 } });
        }
        for (const one of flows.edges) {
            const width = 1 + 9 * Math.sqrt(one.requests / most);
            wanted.set(one.id, { group: "edges", data: { id: one.id, source: one.from.id, target: one.to.id, speed: one.speed, width } });
        }
        this.cy.batch(() => {
            this.cy.elements().filter((one) => !wanted.has(one.id())).remove();
            for (const [id, one] of wanted) {
                const found = this.cy.getElementById(id);
                if (found.empty()) {
                    this.cy.add(one);
                } else {
                    const { source, target, id: _, ...data } = one.data;
                    found.data(data);
                }
            }
        });
        this.arrange();
        if (this.at !== null && !wanted.has(this.at)) {
            this.go(null);
        }
    }

    // Columns of equal width; each is centred from top to bottom.
    arrange() {
        const columns = LEVELS.map((level) => this.flows.nodes.filter((one) => one.level === level));
        const rows = Math.max(3, ...columns.map((one) => one.length));
        this.place.style.height = `${rows * ROW + 16}px`;
        this.cy.resize();
        const column = this.place.clientWidth / 4;
        if (column < 20) {
            return; // not laid out yet
        }
        const width = Math.min(column * 0.74, 190);
        this.cy.batch(() => {
            columns.forEach((nodes, number) => nodes.forEach((node, place) => {
                const y = (rows * ROW + 16) / 2 + (place - (nodes.length - 1) / 2) * ROW;
                const found = this.cy.getElementById(node.id);
                found.position({ x: column * (number + 0.5), y });
                found.data({ width, inner: width - 10, size: column < 130 ? 10 : 12 });
            }));
        });
        this.cy.viewport({ zoom: 1, pan: { x: 0, y: 0 } });
    }

    key(event) {
        const columns = LEVELS.map((level) => this.flows.nodes.filter((one) => one.level === level));
        const node = this.flows.nodes.find((one) => one.id === this.at);
        if (node === undefined) {
            return;
        }
        const number = LEVELS.indexOf(node.level);
        const place = columns[number].indexOf(node);
        let next;
        switch (event.key) {
            case "ArrowUp": next = columns[number][place - 1]; break;
            case "ArrowDown": next = columns[number][place + 1]; break;
            case "ArrowLeft": next = this.beside(node, columns.slice(0, number).reverse()); break;
            case "ArrowRight": next = this.beside(node, columns.slice(number + 1)); break;
            case "Home": next = this.flows.nodes[0]; break;
            case "End": next = this.flows.nodes.at(-1); break;
            case "Enter": case " ": this.pick(node.id); break;
            case "Escape": this.pick(null); break;
            default: return;
        }
        event.preventDefault();
        if (next !== undefined) {
            this.go(next.id);
        }
    }

    // The busiest neighbour on that side; without one, whoever comes first there.
    beside(node, columns) {
        const linked = this.flows.edges.filter((one) => one.from === node || one.to === node)
            .sort((one, other) => other.requests - one.requests)
            .map((one) => (one.from === node ? one.to : one.from));
        const side = columns.flat();
        return linked.find((one) => side.includes(one)) ?? columns.find((one) => one.length)?.[0];
    }

    go(id) {
        this.at = id;
        this.cy.elements().removeClass("at");
        const node = this.flows.nodes.find((one) => one.id === id);
        if (node === undefined) {
            this.told.textContent = "";
            return;
        }
        this.cy.getElementById(id).addClass("at");
        this.told.textContent = this.words(node);
    }

    words(node) {
        const health = node.health ? `, ${node.health}` : "";
        const edges = this.flows.edges.filter((one) => one.to === node || (node.level === "client" && one.from === node));
        const speeds = edges.map((one) => {
            const other = one.to === node ? `from ${one.from.name}` : `to ${one.to.name}`;
            return `${one.requests} ${other}${one.ms === null ? "" : ` in ${one.ms.toLocaleString("en")} ms`}`;
        });
        return `${node.level[0].toUpperCase()}${node.level.slice(1)} ${node.name}${health}: ${node.requests} requests, ${node.failed} failed. ${speeds.join("; ")}.`;
    }

    pick(id) {
        if (id !== null) {
            this.go(id);
        }
        this.cy.elements().removeClass("off");
        if (id !== null) {
            const near = this.cy.getElementById(id).union(this.cy.getElementById(id).predecessors()).union(this.cy.getElementById(id).successors());
            this.cy.elements().not(near).addClass("off");
        }
        this.chosen(id);
    }
}
