// Colours of observe.css for what is drawn on a canvas, and a call when the theme changes.

export function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(--ob-${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return plain(found);
}

// Not every canvas library reads oklch(): a pixel of the colour is always rgb.
function plain(text) {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    return `rgb(${red}, ${green}, ${blue})`;
}

export function onTheme(call) {
    new MutationObserver(call).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
}
