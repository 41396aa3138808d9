// How the page asks the server: with the token of this tab, for a bounded time, and what its refusals are here.

/** Where the server is: two folders above this file, under whatever path it is mounted. */
const ROOT = new URL("../../", import.meta.url);
const KEPT = "eventrec.token";
const PATIENCE = 20_000;

/** The server has refused: `status`, and why. */
export class Refusal extends Error {
  constructor(status, detail, { retryAfter = null, held = null } = {}) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
    this.held = held; // the token that was sent
  }
}

/** No answer came. */
export class Unreachable extends Error {}

export const token = {
  get: () => sessionStorage.getItem(KEPT),
  set: (value) => sessionStorage.setItem(KEPT, value),
  forget: () => sessionStorage.removeItem(KEPT),
};

/** What the server says of itself in the page. */
export const server = {
  wantsTokens: document.documentElement.dataset.tokens !== "",
  reads: document.documentElement.dataset.reads !== "",
};

/** The answer, out of JSON, or as the text that it is. */
export async function ask(
  path,
  query = {},
  { method = "GET", body, signal, patience = PATIENCE, asText = false } = {},
) {
  const signals = [AbortSignal.timeout(patience), ...(signal ? [signal] : [])];
  const response = await request(path, query, { method, body, signal: AbortSignal.any(signals) });
  try {
    return await (asText ? response.text() : response.json());
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("the answer broke off");
  }
}

/** The answer as a stream of server-sent events, until it ends or `signal` ends it; each is given to `take`. */
export async function follow(path, query, { lastId, signal, take }) {
  const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
  const response = await request(path, query, { headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser(take);
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      parser.feed(value);
    }
  } catch (error) {
    if (signal.aborted) return;
    throw new Unreachable(error.message);
  }
}

async function request(path, query, { method = "GET", headers = {}, body, signal }) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) if (each !== null && each !== undefined) url.searchParams.append(name, each);
  }
  const held = token.get();
  if (held === null && server.wantsTokens) throw new Refusal(401, "a token is needed");
  const sent = { Accept: "application/json", ...headers };
  if (held !== null) sent.Authorization = `Bearer ${held}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers: sent,
      signal,
      cache: "no-store",
      credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted && error.name === "AbortError") throw error;
    throw new Unreachable("no answer");
  }
  if (!response.ok) throw await refusal(response, held);
  return response;
}

async function refusal(response, held) {
  const after = Number.parseFloat(response.headers.get("Retry-After"));
  let detail = response.statusText;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch {
    // A proxy's own page: its status has to do.
  }
  const retryAfter = Number.isNaN(after) ? null : after;
  return new Refusal(response.status, detail || `status ${response.status}`, { retryAfter, held });
}

/** Server-sent events out of pieces of text, as the HTML standard has them. */
export class EventParser {
  #take;
  #rest = "";
  #data = [];
  #name = "";
  #id = null;

  constructor(take) {
    this.#take = take;
  }

  feed(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length > 0)
        this.#take({ name: this.#name || "message", id: this.#id, data: this.#data.join("\n") });
      this.#data = [];
      this.#name = "";
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#name = value;
    else if (field === "id") this.#id = value;
  }
}
