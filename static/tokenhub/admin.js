// What Django's, select2's and unfold's pages leave to the mouse alone, or unsaid to a screen reader.
"use strict";

const CLICKED = "[x-on\\:click]:not(button, input, select, a[href], #changelist-filter-close)";
const NAMES = { sidebar: "Menu", openRelatedWidgetWrapper: "More" };  // of those that show an icon alone

// What is clicked and is no button is one for the keyboard, too.
function makeButtons(root) {
    for (const one of root.querySelectorAll(CLICKED)) {
        if (!one.hasAttribute("role")) {
            const does = one.getAttribute("x-on:click");
            const name = Object.keys(NAMES).find((word) => does.startsWith(word));
            one.setAttribute("role", "button");
            one.setAttribute("tabindex", "0");
            if (name) one.setAttribute("aria-label", NAMES[name]);
        }
    }
}

function pressed(event) {
    const button = event.target;
    if (event.key === "Escape" && button.closest("#changelist-filter")) {
        document.querySelector("[x-on\\:click='filterOpen = true']")?.focus();
    } else if ((event.key === "Enter" || event.key === " ") && button.matches(CLICKED)) {
        event.preventDefault();
        button.click();
        if (button.getAttribute("x-on:click") === "filterOpen = true") {
            setTimeout(() => {  // once it is shown
                const fields = document.querySelectorAll("#changelist-filter :is(select, input, a[href], [tabindex])");
                [...fields].find((one) => one.tabIndex >= 0 && one.getClientRects().length)?.focus();
            });
        }
    }
}

function nameSelects(root) {
    for (const box of root.querySelectorAll(".select2-selection[aria-labelledby]")) {
        const select = box.closest(".select2-container")?.previousElementSibling;
        const name = select?.getAttribute("aria-label") || select?.labels?.[0]?.textContent.trim();
        if (name) {
            box.removeAttribute("aria-labelledby");
            box.setAttribute("aria-label", name);
            const text = box.querySelector("[role=textbox]");
            text?.removeAttribute("role");
            text?.removeAttribute("aria-readonly");
        }
    }
    for (const tip of root.querySelectorAll(".help-tooltip[aria-label]:not([role])")) {
        tip.setAttribute("role", "img");
    }
}

document.addEventListener("DOMContentLoaded", () => {
    nameSelects(document);
    makeButtons(document);
    document.addEventListener("keydown", pressed);
    new MutationObserver(() => {
        nameSelects(document);
        makeButtons(document);
    }).observe(document.body, { childList: true, subtree: true });
});
