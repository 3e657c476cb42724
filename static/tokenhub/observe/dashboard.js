// The dashboard fetches its two parts from the server, the state again and again, and draws the charts.
import { colour, onTheme } from "./theme.js";

const STATE_MS = 15_000;
const FIGURES_MS = 60_000;
const page = document.getElementById("dashboard");
const state = document.getElementById("dashboard-state");
const figures = document.getElementById("dashboard-figures");
let charts = [];

async function load(url, place) {
    let text;
    try {
        const answer = await fetch(url, { headers: { "X-Requested-With": "fetch" } });
        if (answer.redirected) {
            location.reload(); // the session is over: the login page comes back here
            return false;
        }
        if (!answer.ok) {
            throw new Error(`status ${answer.status}`);
        }
        text = await answer.text();
    } catch (problem) {
        let note = place.querySelector(".ob-failed");
        if (!note) {
            note = document.createElement("p");
            note.className = "ob-failed ob-worse";
            place.prepend(note);
        }
        note.textContent = `This could not be fetched (${problem.message}). What stands here may be old.`;
        return false;
    }
    if (place.dataset.text === text) {
        place.querySelector(".ob-failed")?.remove();
        return false; // screen readers need not hear it again
    }
    place.dataset.text = text;
    place.innerHTML = text; // from our own templates, which escape
    place.removeAttribute("aria-busy");
    return true;
}

function chosen() {
    const given = new URLSearchParams(location.search);
    const wanted = new URLSearchParams();
    for (const name of ["window", "by"]) {
        if (given.has(name)) {
            wanted.set(name, given.get(name));
        }
    }
    return wanted.size ? `?${wanted}` : "";
}

async function loadFigures() {
    const focused = document.activeElement?.matches?.("#dashboard-figures [data-part]") ? document.activeElement.textContent : "";
    if (await load(page.dataset.figuresUrl + chosen(), figures)) {
        draw();
        const again = [...figures.querySelectorAll("[data-part]")].find((one) => one.textContent === focused);
        again?.focus({ preventScroll: true });
    }
}

// -- charts ----------------------------------------------------------------------------------------------------------
function draw() {
    charts.forEach((one) => one.destroy());
    charts = [];
    const told = document.getElementById("dashboard-points");
    if (!told) {
        return;
    }
    const points = JSON.parse(told.textContent);
    for (const place of figures.querySelectorAll("[data-chart]")) {
        charts.push(chart(place, points));
    }
}

function chart(place, points) {
    const bars = uPlot.paths.bars({ size: [0.7, 40] });
    const lines = {
        requests: [["requests", "Requests", "series", bars], ["errors", "Errors", "bad", bars]],
        latency: [["p50", "Median", "series"], ["p95", "p95", "series-2"], ["first", "First chunk p95", "series-3"]],
        cost: [["cost", "Cost", "series", bars]],
    }[place.dataset.chart];
    const quiet = colour("quiet");
    const zone = page.dataset.timeZone;
    const clock = new Intl.DateTimeFormat("en-GB", { timeZone: zone, hour: "2-digit", minute: "2-digit" });
    const calendar = new Intl.DateTimeFormat("en-GB", { timeZone: zone, day: "numeric", month: "short" });
    const moment = (at) => `${calendar.format(at * 1000)} ${clock.format(at * 1000)}`;
    const axis = { stroke: quiet, grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px sans-serif" };
    const series = lines.map(([, label, name, paths]) => ({
        label,
        stroke: colour(name),
        fill: paths ? colour(name) : undefined,
        width: paths ? 0 : 2,
        paths,
        points: { show: !paths && points.at.length < 32, size: 5 },
        value: (_, number) => (number === null || number === undefined ? "-" : number.toLocaleString("en")),
        spanGaps: false,
    }));
    return new uPlot(
        {
            width: place.clientWidth - 24,
            height: 170,
            tzDate: (at) => uPlot.tzDate(new Date(at * 1000), zone),
            focus: { alpha: 1 },
            cursor: { y: false, drag: { x: false, y: false } },
            axes: [{ ...axis, size: 30, values: (_, all, __, ___, step) => all.map((at) => (step < 86_400 ? clock : calendar).format(at * 1000)) }, { ...axis, size: 54, values: (_, all) => all.map(short) }],
            scales: { x: { range: (_, first, last) => [first - points.step / 2, last + points.step / 2] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
            series: [{ label: "At", value: (_, at) => (at === null ? "-" : moment(at)) }, ...series],
        },
        [points.at, ...lines.map(([name]) => points[name])],
        place,
    );
}

function short(number) {
    if (number >= 1000) {
        return `${Number((number / 1000).toPrecision(3))}k`;
    }
    return String(Number(number.toPrecision(3)));
}

// -- the page ----------------------------------------------------------------------------------------------------------
figures.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-part]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) {
        return;
    }
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    loadFigures();
});

addEventListener("popstate", loadFigures);
onTheme(draw);
let width = innerWidth;
addEventListener("resize", () => {
    if (innerWidth !== width) {
        width = innerWidth;
        draw();
    }
});

load(page.dataset.stateUrl, state);
setInterval(() => document.hidden || load(page.dataset.stateUrl, state), STATE_MS);
document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.id === "setup") {
        load(page.dataset.stateUrl, state); // a step of the set-up is done: what it put right shall go
    }
});
if (page.dataset.figuresUrl) {
    loadFigures();
    setInterval(() => document.hidden || loadFigures(), FIGURES_MS);
}
