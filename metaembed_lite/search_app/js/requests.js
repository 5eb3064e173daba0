// What the page asks of the server.

/** Why there is no answer, in words that a reader can use. */
export class AnswerError extends Error {
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

/** The JSON that the server answers. Throws an AnswerError. */
export async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new AnswerError("There is no answer. Is “metaembed-lite serve” still running?", 0);
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok) return content;
  throw new AnswerError(content?.error ?? `The answer is ${answer.status}.`, answer.status);
}

/** Search by the token of an encoded query if there is one, or else by text and image. */
export function search({ token, text, image }, { budget, k, where }) {
  const settings = { budget: budget.join("x"), k, where };
  if (token || !image) {
    const body = JSON.stringify({ ...(token ? { query: token } : { text }), ...settings });
    const headers = { "Content-Type": "application/json" };
    return ask("search", { method: "POST", headers, body });
  }
  const body = new FormData();
  for (const [name, value] of Object.entries({ text, ...settings })) body.append(name, value);
  body.append("image", image);
  return ask("search", { method: "POST", body });
}

export const thumbnailPath = (id) => `thumbnail/${encodeURIComponent(id)}`;
export const attention = (id) => ask(`attention/${encodeURIComponent(id)}`);
export const match = (id, token) =>
  ask(`match/${encodeURIComponent(id)}?${new URLSearchParams({ query: token })}`);

/** `work` on the newest request, one at a time. A request that a newer one overtakes is dropped. */
export function newest(work) {
  let waiting = null;
  let isRunning = false;
  return async (...request) => {
    waiting = request;
    if (isRunning) return;
    isRunning = true;
    try {
      while (waiting) {
        const current = waiting;
        waiting = null;
        await work(...current);
      }
    } finally {
      isRunning = false;
    }
  };
}
