/** One column: a request on its way, its text as it comes, and what it cost. */

import { dollars as amountOf } from "../tokenhub/money.js";
import { events } from "./sse.js";
import { isPlan, planMode, requestOf } from "./playground_request.js";

const TOLD_TRIES = 40;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function parts(element) {
  return Object.fromEntries([...element.querySelectorAll("[data-is]")].map((one) => [one.dataset.is, one]));
}

const copied = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

export function seconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

export function dollars(amount) {
  return amount === 0 ? "free" : amountOf(amount);
}

export function nameOf(target) {
  return isPlan(target) ? `plan: ${planMode(target)}` : target;
}

/** A routing reason in words. */
export function inWords(reason) {
  const weight = /^routed-weight-(\d+)$/.exec(reason);
  if (weight) return `The router chose it by its scores; the model's weight is ${weight[1]}.`;
  if (reason.startsWith("failover-")) return `Another one failed first (${reason.slice(9)}).`;
  if (reason.endsWith("-orchestration")) return "Several calls made this answer.";
  return (
    {
      "model-hint": "It was asked for by name.",
      "alias-variant": "The alias stands for it.",
      thompson: "Drawn by chance, from what was learned.",
      "escalated-context-overflow": "The first one could not hold so long a request.",
      "retried-transient": "Asked once more after a passing failure.",
    }[reason] ?? ""
  );
}

export class Answer {
  constructor(target, urls) {
    this.target = target;
    this.urls = urls;
    this.element = copied("answer-template");
    this.is = parts(this.element);
    this.is.target.textContent = nameOf(target);
    this.legs = new Map();
    this.state("waiting", "");
  }

  state(text, kind) {
    this.is.state.textContent = text;
    this.is.state.className = `pg-badge pg-end ${kind}`;
  }

  /** Never throws: whatever happens is told in the column. */
  async run(keys, values, signal) {
    this.begun = performance.now();
    try {
      const answer = await this.ask(keys, values, signal);
      this.requestId = answer.headers.get("X-TokenHub-Request-ID");
      this.answeredBy(answer.headers.get("X-TokenHub-Model"), answer.headers.get("X-TokenHub-Provider"));
      this.reason(answer.headers.get("X-TokenHub-Reason") ?? "");
      this.state("answering", "pg-wait");
      this.is.text.classList.add("pg-live");
      await (isPlan(this.target) ? this.readPlan(answer) : this.readChat(answer));
      this.state("done", "pg-good");
    } catch (problem) {
      this.failed(problem, signal);
    }
    this.is.text.classList.remove("pg-live");
    this.is.time.textContent = seconds(performance.now() - this.begun);
    await this.look();
  }

  /** A key may need a moment more until the worker that is asked knows it. */
  async ask(keys, values, signal) {
    const { path, body } = requestOf(this.target, values);
    for (;;) {
      const { key, freshUntil } = await keys.get();
      this.begun = performance.now();
      const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
      const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
      if (answer.ok) return answer;
      this.requestId = answer.headers.get("X-TokenHub-Request-ID");
      const { error } = await answer.json().catch(() => ({ error: { message: `Status ${answer.status}.` } }));
      const isUnknownYet = error.code === "invalid_api_key" && performance.now() < freshUntil;
      if (!isUnknownYet) throw Object.assign(new Error(), { told: error });
      await pause(400);
    }
  }

  async readChat(answer) {
    const calls = [];
    for await (const { data } of events(answer)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw Object.assign(new Error(), { told: chunk.error });
      const delta = chunk.choices?.[0]?.delta ?? {};
      if (delta.content) this.say(delta.content);
      for (const call of delta.tool_calls ?? []) {
        const known = (calls[call.index ?? 0] ??= { name: "", text: "" });
        known.name += call.function?.name ?? "";
        known.text += call.function?.arguments ?? "";
        this.showCalls(calls);
      }
      if (chunk.usage) this.tokens(chunk.usage.prompt_tokens, chunk.usage.completion_tokens);
    }
  }

  showCalls(calls) {
    this.first();
    this.callLines ??= this.is.text.appendChild(document.createElement("div"));
    this.callLines.className = "pg-code";
    this.callLines.textContent = calls.map(({ name, text }) => `→ ${name}(${text})`).join("\n");
  }

  async readPlan(answer) {
    for await (const { event, data } of events(answer)) {
      const told = JSON.parse(data);
      if (event === "error") throw Object.assign(new Error(), { told: told.error });
      if (event === "leg_started") this.leg(told);
      else if (event === "delta") this.legSays(told);
      else if (event === "leg_completed") this.legEnds(told);
      else if (event === "result") this.planEnds(told);
    }
  }

  leg({ leg, role, model }) {
    const element = copied("leg-template");
    const is = parts(element);
    is.role.textContent = `${role}`;
    is.about.textContent = model ? `${model} …` : "…";
    this.is.legs.append(element);
    this.legs.set(leg, is);
  }

  legSays({ leg, text }) {
    this.first();
    this.legs.get(leg)?.text.append(text);
  }

  legEnds({ leg, model, content, cost_usd: cost, latency_ms: latency, error }) {
    const is = this.legs.get(leg);
    if (!is) return;
    is.text.textContent = content;
    const told = [model, latency === null ? null : seconds(latency), cost === null ? null : dollars(cost), error];
    is.about.textContent = told.filter(Boolean).join(" · ");
  }

  planEnds(result) {
    const { response } = result;
    this.is.text.textContent =
      response.refined_plan ??
      response.refined_response ??
      response.responses?.[response.selected]?.content ??
      response.initial_plan ??
      response.choices?.[0]?.message?.content ??
      JSON.stringify(response, null, 2);
    this.answeredBy(result.negotiated_model, "");
    this.reason(result.routing_reason ?? "");
    if (result.cost_usd !== null) this.is.cost.textContent = dollars(result.cost_usd);
  }

  first() {
    if (this.firstAt) return;
    this.firstAt = performance.now();
    this.is.first.textContent = seconds(this.firstAt - this.begun);
  }

  say(text) {
    this.first();
    this.is.text.append(text);
  }

  tokens(input, output) {
    this.is.tokens.textContent = `${input.toLocaleString("en")} / ${output.toLocaleString("en")}`;
  }

  answeredBy(model, provider) {
    if (model) this.is.who.textContent = provider ? `answered by ${model} at ${provider}` : `answered by ${model}`;
  }

  reason(text) {
    this.is.reason.textContent = text;
    this.is["reason-words"].textContent = inWords(text);
  }

  failed(problem, signal) {
    if (signal.aborted) {
      this.state("stopped", "");
      return;
    }
    this.state("failed", "pg-bad");
    const told = problem.told;
    const lines = told ? [told.message, told.hint, told.code && `(${told.code})`] : [problem.message];
    this.is.text.append(this.is.text.textContent ? "\n\n" : "", lines.filter(Boolean).join(" "));
  }

  /** The request log has what a stream cannot say: the settled cost, and who else could have answered. */
  async look() {
    if (!this.requestId) return;
    for (let tries = 0; tries < TOLD_TRIES; tries += 1) {
      const answer = await fetch(this.urls.told.replace("ID", this.requestId)).catch(() => null);
      if (answer && !answer.ok) return;
      const row = await answer?.json();
      if (row?.here) {
        this.told(row);
        return;
      }
      await pause(250);
    }
  }

  told(row) {
    this.answeredBy(row.model, row.provider);
    this.reason(row.reason);
    if (row.input_tokens || row.output_tokens) this.tokens(row.input_tokens, row.output_tokens);
    if (row.cost_usd !== null) this.is.cost.textContent = dollars(row.cost_usd);
    else if (!isPlan(this.target)) this.is.cost.textContent = "no price"; // a run's cost is that of its legs
    if (row.link) {
      this.is.link.href = row.link;
      this.is.link.classList.remove("pg-hidden");
    }
    if (!row.candidates.length) return;
    this.is.why.classList.remove("pg-hidden");
    for (const { model, score, excluded } of row.candidates) {
      const line = this.is.candidates.appendChild(document.createElement("tr"));
      line.insertCell().textContent = model;
      line.insertCell().textContent = excluded ? excluded.replaceAll("_", " ") : (score ?? 0).toFixed(3);
    }
  }
}
