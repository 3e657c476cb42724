// Asks the simulation what the router would do with such a request today, and says how that differs.
import { dollars } from "../money.js";

const page = document.getElementById("replay");
const place = document.getElementById("replay-answer");

function line(text, kind = "") {
    const made = document.createElement("p");
    made.className = kind;
    made.textContent = text;
    place.append(made);
    return made;
}

async function replay() {
    place.replaceChildren();
    let answer;
    let told;
    try {
        answer = await fetch(page.dataset.url, {
            method: "POST",
            headers: {
                "Content-Type": "application/json",
                "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value,
            },
            body: document.getElementById("replay-question").textContent,
        });
        told = await answer.json();
    } catch (problem) {
        line(`The server cannot be reached: ${problem.message}`, "ob-worse");
        return;
    }
    if (!answer.ok) {
        line(`Today it would be refused: ${told.error.message}`, "ob-worse");
        return;
    }
    const { decision, eligible, excluded } = told;
    if (decision === null) {
        line("Today nobody could answer it.", "ob-worse");
    } else {
        const same = page.dataset.answered !== undefined && decision.model_id === page.dataset.model && decision.provider_id === page.dataset.provider;
        const cost = decision.estimated_cost_usd === null ? "at an unknown cost" : `for about ${dollars(decision.estimated_cost_usd)}`;
        const than = page.dataset.answered === undefined ? "Nobody answered then." : same ? "It is the one that answered." : "That is another one than answered.";
        line(`Today ${decision.model_id} at ${decision.provider_id} would be asked first (${decision.reason}), ${cost}. ${than}`, same ? "ob-better" : "");
    }
    if (eligible.length) {
        line(`In this order: ${eligible.map((one) => `${one.model_id}${one.score === null ? "" : ` (${one.score.toFixed(4)})`}`).join(", ")}.`);
    }
    if (excluded.length) {
        line(`Left out: ${excluded.map((one) => `${one.model_id} (${one.excluded_reason.replaceAll("_", " ")})`).join(", ")}.`, "ob-quiet");
    }
}

document.getElementById("replay-button")?.addEventListener("click", replay);
