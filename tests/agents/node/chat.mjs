// The chat helpers of the openai package. Prints what they gave as JSON. Arguments: the base URL, the model.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: process.env.TOKENHUB_API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "Hi" }];
const Weather = z.object({ city: z.string(), days: z.array(z.number()) });
const Verdict = z.object({ good: z.boolean(), reason: z.string() });
const ran = [];
const weather = () =>
  zodFunction({
    name: "Weather",
    description: "Tells the weather.",
    parameters: Weather,
    function: (asked) => {
      ran.push(asked);
      return `sun in ${asked.city}`;
    },
  });

const said = {};
said.whole = (await client.chat.completions.create({ model, messages })).choices[0].message.content;

const stream = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
said.deltas = [];
stream.on("content", (delta) => said.deltas.push(delta));
said.streamed = await stream.finalContent();
said.usage = await stream.totalUsage();

said.ran = await client.chat.completions.runTools({ model, messages, tools: [weather()] }).finalContent();
said.ran_streaming = await client.chat.completions
  .runTools({ model, messages, tools: [weather()], stream: true })
  .finalContent();
said.tool_arguments = ran;

const verdict = { model, messages, response_format: zodResponseFormat(Verdict, "verdict") };
said.parsed = (await client.chat.completions.parse(verdict)).choices[0].message.parsed;
said.parsed_streaming = (
  await client.chat.completions.stream(verdict).finalChatCompletion()
).choices[0].message.parsed;

try {
  await client.chat.completions.create({ model: "by-nobody", messages });
} catch (error) {
  said.refused = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(said));
