/** The page's client key. It lives in this closure alone: no element, store or address ever holds it, and it ends when
 * the page is left, also while it is being made: its id is chosen here. */

const SPARE_SECONDS = 60;
const FRESH_MS = 15_000; // by then the busiest worker knows it

const chosenId = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export function keyring(urls, csrf) {
  let held = null; // a promise of {key, readyAt, freshUntil}
  let until = Infinity; // when it is to be renewed
  let id = null; // of the key that is there, or asked for

  function formOf(keyId) {
    const form = new FormData();
    form.set("csrfmiddlewaretoken", csrf);
    form.set("id", keyId);
    return form;
  }

  async function made() {
    id = chosenId();
    const answer = await fetch(urls.key, { method: "POST", body: formOf(id) });
    if (!answer.ok || answer.redirected) throw new Error("No key was made for this page. Log in again, and reload.");
    const told = await answer.json();
    const now = performance.now();
    until = now + (told.seconds - SPARE_SECONDS) * 1000;
    return { key: told.key, readyAt: now + told.ready_in_ms, freshUntil: now + told.ready_in_ms + FRESH_MS };
  }

  function prepare() {
    if (held === null || until < performance.now()) {
      until = Infinity;
      const asked = made();
      held = asked;
      asked.catch(() => {
        held = null;
      });
    }
    return held;
  }

  /** `{key, freshUntil}`: until then a worker may not know it yet. */
  async function get() {
    const { key, readyAt, freshUntil } = await prepare();
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, readyAt - performance.now())));
    return { key, freshUntil };
  }

  function end() {
    if (id === null) return;
    navigator.sendBeacon(urls.end, formOf(id));
    held = id = null;
  }

  addEventListener("pagehide", end);
  return { prepare, get };
}
