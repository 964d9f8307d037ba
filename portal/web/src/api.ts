/** The session, and requests of the API with the header that proves that they come from this page. */

export interface Session {
  user: string;
  csrf: string;
}

/** A refusal of the server: its HTTP code and what the Status says. */
export class Refused extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

let csrf = "";

async function answer(response: Response): Promise<unknown> {
  const doc: unknown = await response.json().catch(() => null);
  if (response.ok) return doc;
  const said = doc as { message?: string } | null;
  throw new Refused(response.status, said?.message ?? response.statusText);
}

/** One request; throws Refused, or TypeError when the server cannot be reached. */
export async function call(method: string, path: string, doc?: unknown): Promise<unknown> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (method !== "GET") headers["X-Nano-CSRF"] = csrf;
  const init: RequestInit = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (doc !== undefined) {
    headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(doc);
  }
  return answer(await fetch(path, init));
}

function taken(doc: unknown): Session | null {
  const { user, csrf: secret } = (doc as { spec: Partial<Session> }).spec;
  if (user === undefined || secret === undefined) return null;
  csrf = secret;
  return { user, csrf: secret };
}

/** Who is logged in, or null. */
export async function session(): Promise<Session | null> {
  return taken(await call("GET", "/auth/session"));
}

/** Show a token once; the browser gets a cookie that no script can read. */
export async function login(token: string): Promise<Session> {
  const found = taken(await call("POST", "/auth/login", { token }));
  if (found === null) throw new Refused(401, "");
  return found;
}

/** End the session. */
export async function logout(): Promise<void> {
  await call("POST", "/auth/logout");
}
