// Runs scenarios with the official SDKs: JSON in on stdin, JSON out on stdout. What is checked is not its affair.
//
// In: {"url": …, "scenarios": [{"client": "openai" | "anthropic", "method": "chat.completions.create", "arguments": […]}]}
// Out: for each, {"whole": …}, {"events": […]} or {"error": {"kind": …, "status": …, "body": …}}.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const asked = JSON.parse(await new Response(process.stdin).text());
const options = { apiKey: "none", maxRetries: 0, timeout: 120_000 };
const clients = {
  openai: new OpenAI({ ...options, baseURL: `${asked.url}/v1` }),
  anthropic: new Anthropic({ ...options, baseURL: asked.url }),
};

async function run({ client, method, arguments: given }) {
  const path = method.split(".");
  const name = path.pop();
  const resource = path.reduce((owner, part) => owner[part], clients[client]);
  try {
    const answer = await resource[name](...given);
    if (answer && given.at(-1)?.stream === true) {
      const events = [];
      for await (const event of answer) events.push(event);
      return { events };
    }
    return { whole: answer };
  } catch (error) {
    return { error: { kind: error.constructor.name, status: error.status ?? null, body: error.error ?? null } };
  }
}

const results = [];
for (const scenario of asked.scenarios) results.push(await run(scenario));
process.stdout.write(JSON.stringify(results));
