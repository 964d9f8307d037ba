import { StrictMode, useCallback, useEffect, useMemo, useState, useSyncExternalStore } from "react";
import { createRoot } from "react-dom/client";

import { Refused, type Session, logout, session } from "./api";
import { Console } from "./Console";
import { Instances } from "./Instances";
import { Login } from "./Login";
import { go, segments, useAddress } from "./route";
import { WatchHub } from "./watch";
import { type Language, keep, language, words } from "./words";

type Who = Session | null | undefined;

function App() {
  const [who, setWho] = useState<Who>();
  const [over, setOver] = useState(false);
  const [away, setAway] = useState(false);
  const [lang, setLang] = useState<Language>(language);
  const say = words[lang];

  useEffect(() => {
    document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
    keep(lang);
  }, [lang]);

  useEffect(() => {
    let tries = 0;
    let timer = 0;
    const ask = () => {
      session().then(
        (found) => {
          setAway(false);
          setWho(found);
        },
        (error: unknown) => {
          setAway(!(error instanceof Refused));
          timer = window.setTimeout(ask, Math.min(15_000, 500 * 2 ** tries++));
        },
      );
    };
    ask();
    return () => window.clearTimeout(timer);
  }, []);

  const loggedOut = useCallback(() => setOver(true), []);
  const entered = (found: Session) => {
    setOver(false);
    setWho(found);
  };
  const leave = () => {
    void logout().catch(() => undefined);
    setOver(false);
    setWho(null);
  };

  return (
    <>
      <header>
        <a href="/instances" onClick={follow("/instances")} className="mark">
          Nano
        </a>
        <nav>
          <a href="/instances" onClick={follow("/instances")}>
            {say.instances}
          </a>
        </nav>
        <span className="spring" />
        <button type="button" className="quiet" lang={lang === "en" ? "zh-CN" : "en"} onClick={() => setLang(lang === "en" ? "zh" : "en")}>
          {say.language}
        </button>
        {who && (
          <>
            <span className="muted">{who.user}</span>
            <button type="button" className="quiet" onClick={leave}>
              {say.logout}
            </button>
          </>
        )}
      </header>
      {away && (
        <p role="alert" className="banner">
          {say.serverAway}
        </p>
      )}
      {who === null && <Login say={say} onSession={entered} note="" />}
      {who && <Inside key={who.csrf} lang={lang} onLoggedOut={loggedOut} />}
      {who && over && (
        <div className="over">
          <Login say={say} onSession={entered} note={say.sessionOver} />
        </div>
      )}
    </>
  );
}

function follow(to: string) {
  return (event: React.MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    go(to);
  };
}

function Inside({ lang, onLoggedOut }: { lang: Language; onLoggedOut: () => void }) {
  const [hub, setHub] = useState<WatchHub | null>(null);
  useEffect(() => {
    const made = new WatchHub(onLoggedOut);
    setHub(made);
    return () => made.close();
  }, [onLoggedOut]);
  const address = useAddress();
  const [, page, namespace, name] = useMemo(() => segments(address.pathname), [address.pathname]);
  if (!hub) return null;
  if (page === "console" && namespace && name) return <Console hub={hub} lang={lang} namespace={namespace} name={name} />;
  return <Instances hub={hub} lang={lang} address={address} live={<Live hub={hub} lang={lang} />} />;
}

function Live({ hub, lang }: { hub: WatchHub; lang: Language }) {
  const state = useSyncExternalStore(hub.subscribe, hub.state);
  const say = words[lang];
  const said = { live: say.live, connecting: say.connecting, reconnecting: say.reconnecting }[state];
  return (
    <span className={`live ${state}`} role="status">
      {said}
    </span>
  );
}

const root = document.getElementById("app");
if (root) createRoot(root).render(<StrictMode><App /></StrictMode>);
