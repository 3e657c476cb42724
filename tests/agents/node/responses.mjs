// The Responses helpers of the openai package. Prints what they gave as JSON. Arguments: the base URL, the model.
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: process.env.TOKENHUB_API_KEY, maxRetries: 0 });
const input = [{ role: "user", content: "Hi" }];
const tools = [
  zodResponsesFunction({ name: "Weather", parameters: z.object({ city: z.string(), days: z.array(z.number()) }) }),
];
const text = { format: zodTextFormat(z.object({ good: z.boolean(), reason: z.string() }), "verdict") };

// The package sets output_text on whole responses alone.
const textOf = (response) =>
  response.output
    .filter((item) => item.type === "message")
    .flatMap((item) => item.content)
    .map((part) => part.text)
    .join("");

const said = { tool_arguments: [] };
const whole = await client.responses.create({ model, input: "Hi", instructions: "Be brief." });
said.whole = whole.output_text;
said.usage = whole.usage;

const stream = client.responses.stream({ model, input });
said.deltas = [];
stream.on("response.output_text.delta", (event) => said.deltas.push(event.delta));
said.streamed = textOf(await stream.finalResponse());

async function withTools(turn) {
  const items = [...input];
  for (;;) {
    const response = await turn({ model, input: items, tools, store: false });
    const calls = response.output.filter((item) => item.type === "function_call");
    if (calls.length === 0) return textOf(response);
    items.push(...response.output);
    for (const call of calls) {
      const asked = JSON.parse(call.arguments);
      said.tool_arguments.push(asked);
      const output = `sun in ${asked.city}`;
      items.push({ type: "function_call_output", call_id: call.call_id, output });
    }
  }
}
said.ran = await withTools((asked) => client.responses.parse(asked));
said.ran_streaming = await withTools((asked) => client.responses.stream(asked).finalResponse());

said.parsed = (await client.responses.parse({ model, input, text })).output_parsed;
said.parsed_streaming = (await client.responses.stream({ model, input, text }).finalResponse()).output_parsed;

try {
  await client.responses.create({ model: "by-nobody", input });
} catch (error) {
  said.refused = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(said));
