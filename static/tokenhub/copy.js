// <button data-copy="ID">: the text of that element goes to the clipboard, and the status beside the button says so.
"use strict";

async function copied(element) {
    try {
        await navigator.clipboard.writeText(element.textContent);
        return true;
    } catch {  // there is no clipboard on plain http, but for localhost
        getSelection().selectAllChildren(element);
        return document.execCommand("copy");
    }
}

document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) {
        return;
    }
    const done = await copied(document.getElementById(button.dataset.copy));
    const status = button.parentElement.querySelector("[role=status]");
    if (status) {
        status.textContent = done ? "Copied." : "It is selected: press Ctrl+C.";
    }
});
