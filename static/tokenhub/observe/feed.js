// The list of decisions: newest first, bounded, filtered in the browser.
import { dollars } from "../money.js";
import { stations } from "./flows.js";

const MOST = 200;
const KEPT = 1000;
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export class Feed {
    constructor(page) {
        this.body = page.querySelector("#feed-table tbody");
        this.count = page.querySelector("#feed-count");
        this.empty = page.querySelector("#feed-empty");
        this.explainUrl = page.dataset.explainUrl;
        this.kept = []; // {at, key, request} or {at, key, news}, newest first
        this.known = new Set();
        this.isPaused = false;
        this.waiting = 0;
        this.only = null;
        this.outcome = "";
        this.text = "";
    }

    // Whether it was not known yet.
    add(line) {
        if (this.known.has(line.key)) {
            return false;
        }
        this.known.add(line.key);
        let place = 0;
        while (place < this.kept.length && this.kept[place].at > line.at) {
            place += 1;
        }
        this.kept.splice(place, 0, line);
        for (const gone of this.kept.splice(KEPT)) {
            this.known.delete(gone.key);
        }
        if (this.isPaused) {
            this.waiting += 1;
        }
        return true;
    }

    pause(isPaused) {
        this.isPaused = isPaused;
        this.waiting = 0;
    }

    takes(line) {
        if (line.news !== undefined) {
            return this.only === null && ["", "news"].includes(this.outcome) && (!this.text || line.news.toLowerCase().includes(this.text));
        }
        const one = line.request;
        const failed = one.status >= 400;
        return (
            (this.only === null || stations(one).some(([level, name]) => `${level} ${name}` === this.only)) &&
            (this.outcome === "" || (this.outcome === "error" && failed) || (this.outcome === "success" && !failed) || (this.outcome === "moved" && one.attempts > 1)) &&
            (!this.text || [one.api_key_name, one.requested_model, one.alias, one.mode, one.model_id, one.provider_id, one.routing_reason, one.error_code, one.error_class, one.project, one.request_id].some((word) => (word ?? "").toLowerCase().includes(this.text)))
        );
    }

    render() {
        if (this.isPaused) {
            this.count.textContent = this.waiting ? `paused, ${this.waiting} new` : "paused";
            return;
        }
        const shown = this.kept.filter((line) => this.takes(line)).slice(0, MOST);
        const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
        const rows = new Map([...this.body.children].map((row) => [row.dataset.key, row]));
        this.body.replaceChildren(...shown.map((line) => rows.get(line.key) ?? this.row(line)));
        if (focused !== undefined) {
            this.body.querySelector(`a[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
        }
        this.empty.hidden = shown.length > 0;
        this.empty.textContent = this.kept.length && !shown.length ? "Nothing of what came meets the filter." : this.empty.textContent;
        this.count.textContent = this.kept.length ? `${shown.length} of ${this.kept.length}` : "";
    }

    row(line) {
        const row = document.createElement("tr");
        row.dataset.key = line.key;
        const at = cell(row, "");
        if (line.news !== undefined) {
            row.className = "ob-news";
            at.textContent = clock.format(line.at);
            badge(cell(row, ""), line.kind, line.mood);
            const words = cell(row, line.news);
            words.colSpan = 6;
            return row;
        }
        const one = line.request;
        const failed = one.status >= 400;
        at.append(this.link(line));
        badge(cell(row, ""), failed ? `${one.status} ${one.error_code ?? ""}` : one.client_disconnected ? "left" : "ok", failed ? "bad" : one.client_disconnected ? "warn" : "good");
        cell(row, one.api_key_name || "no client key");
        cell(row, one.requested_model || (one.mode ? `mode ${one.mode}` : one.model_id ? "auto" : "nothing was asked for"));
        cell(row, one.model_id ? `${one.model_id} at ${one.provider_id}` : "nobody");
        cell(row, one.routing_reason || one.error_class || "-");
        cell(row, `${one.latency_ms.toLocaleString("en")} ms`, "ob-number");
        cell(row, dollars(one.cost_usd), "ob-number");
        return row;
    }

    link(line) {
        const one = line.request;
        const link = document.createElement("a");
        link.className = "ob-link";
        link.href = this.explainUrl.replace("00000000-0000-0000-0000-000000000000", encodeURIComponent(one.request_id));
        link.textContent = clock.format(line.at);
        link.dataset.key = line.key;
        link.setAttribute("aria-label", `Explain the request of ${clock.format(line.at)} by ${one.api_key_name || "nobody"}`);
        return link;
    }
}

export function cell(row, text, kind = "") {
    const made = document.createElement("td");
    made.textContent = text;
    made.className = kind;
    row.append(made);
    return made;
}

export function badge(place, text, mood) {
    const made = document.createElement("span");
    made.className = `ob-badge ob-is-${mood}`;
    made.textContent = text.trim();
    place.append(made);
}
