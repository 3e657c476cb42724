// What Django's and select2's scripts leave unsaid to a screen reader.
"use strict";

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
    new MutationObserver(() => nameSelects(document)).observe(document.body, { childList: true, subtree: true });
});
