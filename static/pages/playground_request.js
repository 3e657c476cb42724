/** What a target is sent, and the same as code. Pure: from the form's values to paths, bodies and texts. */

const PLAN = "plan:";

export const isPlan = (target) => target.startsWith(PLAN);
export const planMode = (target) => target.slice(PLAN.length);
export const planTarget = (mode) => PLAN + mode;

/** `values`: `{prompt, system, images, tools, maxTokens, temperature, iterations}`. */
export function requestOf(target, values) {
  const messages = [];
  if (values.system) messages.push({ role: "system", content: values.system });
  const images = values.images.map((url) => ({ type: "image_url", image_url: { url } }));
  const content = images.length ? [{ type: "text", text: values.prompt }, ...images] : values.prompt;
  messages.push({ role: "user", content });
  const parameters = {};
  if (values.maxTokens) parameters.max_tokens = values.maxTokens;
  if (values.temperature !== null) parameters.temperature = values.temperature;
  if (values.tools) parameters.tools = values.tools;
  if (!isPlan(target)) {
    const body = { model: target, messages, ...parameters, stream: true, stream_options: { include_usage: true } };
    return { path: "/v1/chat/completions", body };
  }
  const orchestration = { mode: planMode(target) };
  if (values.iterations !== null && orchestration.mode !== "planning") orchestration.iterations = values.iterations;
  const request = Object.keys(parameters).length ? { messages, parameters } : { messages };
  return { path: "/v1/plan", body: { request, orchestration, stream: true } };
}

export function codeOf(language, target, values, origin) {
  const { path, body } = requestOf(target, { ...values, images: values.images.map(shortened) });
  if (language === "curl") return curl(origin + path, body);
  return language === "python" ? python(origin, path, body) : node(origin, path, body);
}

const shortened = (url) => `${url.slice(0, url.indexOf(",") + 1)}...`;
const indented = (text, by) => text.replaceAll("\n", `\n${" ".repeat(by)}`);

function curl(url, body) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return [
    `curl -N ${url} \\`,
    `  -H "Authorization: Bearer $TOKENHUB_KEY" \\`,
    `  -H "Content-Type: application/json" \\`,
    `  -d '${json}'`,
  ].join("\n");
}

function python(origin, path, body) {
  const { stream_options: _, ...fields } = body;
  const text = indented(pythonLiteral(fields), 4);
  if (path === "/v1/chat/completions") {
    return `import os

from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=os.environ["TOKENHUB_KEY"])
stream = client.chat.completions.create(
    **${text}
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
`;
  }
  return `import os

import httpx

body = ${pythonLiteral(fields)}
headers = {"Authorization": f"Bearer {os.environ['TOKENHUB_KEY']}"}
with httpx.stream("POST", "${origin}${path}", json=body, headers=headers, timeout=None) as answer:
    for line in answer.iter_lines():
        print(line)
`;
}

function node(origin, path, body) {
  const { stream_options: _, ...fields } = body;
  const text = JSON.stringify(fields, null, 2);
  if (path === "/v1/chat/completions") {
    return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: process.env.TOKENHUB_KEY });
const stream = await client.chat.completions.create(${text});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
`;
  }
  return `const answer = await fetch("${origin}${path}", {
  method: "POST",
  headers: { Authorization: \`Bearer \${process.env.TOKENHUB_KEY}\`, "Content-Type": "application/json" },
  body: JSON.stringify(${indented(text, 2)}),
});
for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) process.stdout.write(piece);
`;
}

/** JSON's strings and numbers are Python's; its three words are not. */
function pythonLiteral(value, by = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${by}    `;
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((one) => pythonLiteral(one, deeper))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${pythonLiteral(one, deeper)}`);
  const [open, close] = isList ? "[]" : "{}";
  return items.length ? `${open}\n${items.map((one) => deeper + one).join(",\n")},\n${by}${close}` : open + close;
}
