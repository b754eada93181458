// Runs scenarios with the official SDKs: JSON in on stdin, JSON out on stdout. What is checked is not its affair.
//
// In: {"url": …, "scenarios": [{"client": "openai" | "anthropic", "method": "chat.completions.create", "arguments": […]}]}
// Out: for each, {"whole": …}, {"events": […]} or {"error": {"kind": …, "status": …, "body": …}}.
// {"$file": path} among the arguments is a file; of an answer that is no JSON the number of its bytes is told.

import { createReadStream } from "node:fs";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const asked = JSON.parse(await new Response(process.stdin).text());
const options = { apiKey: "none", maxRetries: 0, timeout: 120_000 };
const clients = {
  openai: new OpenAI({ ...options, baseURL: `${asked.url}/v1` }),
  anthropic: new Anthropic({ ...options, baseURL: asked.url }),
};

const open = (value) => (value?.$file ? createReadStream(value.$file) : value);

function opened(given) {
  const isBody = given !== null && typeof given === "object";
  return isBody ? Object.fromEntries(Object.entries(given).map(([name, value]) => [name, open(value)])) : given;
}

async function run({ client, method, arguments: given }) {
  const path = method.split(".");
  const name = path.pop();
  const resource = path.reduce((owner, part) => owner[part], clients[client]);
  try {
    const answer = await resource[name](...given.map(opened));
    if (answer && given.at(-1)?.stream === true) {
      const events = [];
      for await (const event of answer) events.push(event);
      return { events };
    }
    if (answer instanceof Response) return { whole: { bytes: (await answer.arrayBuffer()).byteLength } };
    return { whole: answer };
  } catch (error) {
    return { error: { kind: error.constructor.name, status: error.status ?? null, body: error.error ?? null } };
  }
}

const results = [];
for (const scenario of asked.scenarios) results.push(await run(scenario));
process.stdout.write(JSON.stringify(results));
