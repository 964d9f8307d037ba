import { type SyntheticEvent, useState } from "react";

import { Refused, type Session, login } from "./api";
import type { words } from "./words";

type Say = (typeof words)["en"];

/** A token is asked for once; what was typed stays when the server refuses it. */
export function Login({ say, onSession, note }: { say: Say; onSession: (session: Session) => void; note: string }) {
  const [token, setToken] = useState("");
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);

  const send = (event: SyntheticEvent) => {
    event.preventDefault();
    setBusy(true);
    setWrong("");
    login(token.trim())
      .then(onSession, (error: unknown) => {
        if (!(error instanceof Refused)) setWrong(say.serverAway);
        else setWrong(error.code === 401 ? say.wrongToken : error.message);
      })
      .finally(() => setBusy(false));
  };

  return (
    <main className="login">
      <h1>{say.login}</h1>
      {note && <p role="alert">{note}</p>}
      <form onSubmit={send}>
        <label>
          {say.token}
          <input
            type="password" autoComplete="off" spellCheck={false} autoFocus required maxLength={256}
            value={token} onChange={(event) => setToken(event.target.value)}
            aria-describedby="token-hint" aria-invalid={wrong !== ""}
          />
        </label>
        <p id="token-hint" className="muted">{say.tokenHint}</p>
        {wrong && <p role="alert" className="bad">{wrong}</p>}
        <button type="submit" disabled={busy}>{say.login}</button>
      </form>
    </main>
  );
}
