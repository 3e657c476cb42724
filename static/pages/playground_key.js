/** The page's client key. It lives in this closure alone: no element, store or address ever holds it, and it ends when
 * the page is left. */

const SPARE_SECONDS = 60;

export function keyring(urls, csrf) {
  let held = null; // a promise of {key, id, readyAt}
  let until = Infinity; // when it is to be renewed
  let id = null; // of the key that is there

  async function made() {
    const answer = await fetch(urls.key, { method: "POST", headers: { "X-CSRFToken": csrf } });
    if (!answer.ok || answer.redirected) throw new Error("No key was made for this page. Log in again, and reload.");
    const told = await answer.json();
    const now = performance.now();
    id = told.id;
    until = now + (told.seconds - SPARE_SECONDS) * 1000;
    return { key: told.key, readyAt: now + told.ready_in_ms };
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

  async function get() {
    const { key, readyAt } = await prepare();
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, readyAt - performance.now())));
    return key;
  }

  function end() {
    if (id === null) return;
    const form = new FormData();
    form.set("csrfmiddlewaretoken", csrf);
    form.set("id", id);
    navigator.sendBeacon(urls.end, form);
    held = id = null;
  }

  addEventListener("pagehide", end);
  return { prepare, get };
}
