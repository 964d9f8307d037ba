import RFB from "@novnc/novnc";
import { useCallback, useEffect, useRef, useState } from "react";

import { call } from "./api";
import { phaseOf, useInstances } from "./Instances";
import type { WatchHub } from "./watch";
import { type Language, phaseWord, words } from "./words";

type State = "idle" | "connecting" | "connected" | "disconnected";

interface Ticket {
  token: string;
  url: string;
}

/** What the server closes a console with, beside the codes of RFC 6455. */
const DENIED = 4403;
const IDLE = 4408;
const AGAIN_AFTER = 2000;

async function ticket(namespace: string, name: string): Promise<Ticket> {
  const path = `/apis/nano/v1/namespaces/${encodeURIComponent(namespace)}/instances/${encodeURIComponent(name)}/console`;
  return ((await call("POST", path, { type: "vnc" })) as { spec: Ticket }).spec;
}

/** The screen of one machine; it connects again by itself when the guest has been restarted. */
export function Console({ hub, lang, namespace, name }: { hub: WatchHub; lang: Language; namespace: string; name: string }) {
  const say = words[lang];
  const watched = useInstances(hub);
  const one = [...watched.things.values()].find((it) => it.metadata.name === name && it.metadata.namespace === namespace);
  const phase = one ? phaseOf(one) : "";
  const runs = phase === "Running" || phase === "Stopping";
  const [state, setState] = useState<State>("idle");
  const [why, setWhy] = useState("");
  const [tries, setTries] = useState(0);
  const screen = useRef<HTMLDivElement>(null);
  const rfb = useRef<RFB | null>(null);

  useEffect(() => {
    document.title = `${name} - Nano`;
    return () => {
      document.title = "Nano";
    };
  }, [name]);

  useEffect(() => {
    const target = screen.current;
    if (!runs || !target) return;
    let gone = false;
    let timer = 0;
    setState("connecting");
    setWhy("");
    ticket(namespace, name).then(
      ({ token, url }) => {
        if (gone) return;
        // The token goes as a subprotocol: addresses end up in logs.
        const socket = new WebSocket(`wss://${location.host}${url}`, ["binary", `nano.token.${token}`]);
        let code = 0;
        socket.addEventListener("close", (event) => {
          code = event.code;
        });
        const made = new RFB(target, socket, { shared: true });
        made.scaleViewport = true;
        made.background = "#000";
        made.addEventListener("connect", () => {
          setState("connected");
          made.focus();
        });
        made.addEventListener("disconnect", () => {
          if (gone) return;
          rfb.current = null;
          setState("disconnected");
          if (code === DENIED) setWhy(say.denied);
          else if (code === IDLE) setWhy(say.idle);
          else timer = window.setTimeout(() => setTries((count) => count + 1), AGAIN_AFTER);
        });
        rfb.current = made;
      },
      (error: unknown) => {
        if (gone) return;
        setState("disconnected");
        setWhy(error instanceof Error ? error.message : say.error);
      },
    );
    return () => {
      gone = true;
      window.clearTimeout(timer);
      rfb.current?.disconnect();
      rfb.current = null;
    };
  }, [namespace, name, runs, tries, say]);

  const paste = useCallback(() => {
    void navigator.clipboard.readText().then((typed) => {
      for (const letter of typed.slice(0, 4096)) press(rfb.current, letter);
    });
  }, []);

  return (
    <main className="console">
      <div className="bar">
        <h1>{say.consoleOf(`${namespace}/${name}`)}</h1>
        <span className={`live ${state}`} role="status">
          {state === "idle" ? phaseWord(lang, phase) : say[state]}
        </span>
        <span className="spring" />
        <button type="button" disabled={state !== "connected"} onClick={() => rfb.current?.sendCtrlAltDel()}>{say.ctrlAltDel}</button>
        <button type="button" disabled={state !== "connected"} onClick={paste}>{say.paste}</button>
        <button type="button" onClick={() => void screen.current?.requestFullscreen()}>{say.fullScreen}</button>
        {state === "disconnected" && <button type="button" onClick={() => setTries(tries + 1)}>{say.reconnect}</button>}
      </div>
      {why !== "" && <p role="alert" className="bad">{why}</p>}
      {watched.loaded && !one && <p role="alert" className="empty">{say.noSuch(`${namespace}/${name}`)}</p>}
      {watched.loaded && one && !runs && <p className="empty">{say.notRunning(phaseWord(lang, phase))}</p>}
      <div className="screen" ref={screen} />
    </main>
  );
}

const RETURN = 0xff0d;

/** One character as a keyboard would send it; X11 keysyms of Unicode begin at 0x01000000. */
function press(to: RFB | null, letter: string): void {
  const code = letter.codePointAt(0) ?? 0;
  const keysym = letter === "\n" ? RETURN : code < 0x100 ? code : 0x01000000 + code;
  to?.sendKey(keysym, null);
}
