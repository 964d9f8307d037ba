import { type ReactNode, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

import { go } from "./route";
import { type Thing, Watched, type WatchHub } from "./watch";
import { type Language, phaseWord, words } from "./words";

export interface Instance extends Thing {
  metadata: Thing["metadata"] & { namespace: string };
  spec: { cpus?: number; memory?: string; displayName?: string };
  status?: { phase?: string; host?: string; addresses?: { ip: string }[]; conditions?: Condition[] };
}

interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
}

export const INSTANCES = "/apis/nano/v1/instances";
const ROW = 32;
const SPARE = 12;

/** Every instance that the user may see, as it is now. */
export function useInstances(hub: WatchHub): Watched<Instance> {
  const [watched] = useState(() => new Watched<Instance>(INSTANCES));
  useEffect(() => hub.watch(watched), [hub, watched]);
  useSyncExternalStore(watched.subscribe, watched.snapshot);
  return watched;
}

function addressesOf(one: Instance): string {
  return (one.status?.addresses ?? []).map((address) => address.ip).join(", ");
}

export function phaseOf(one: Instance): string {
  return one.status?.phase ?? "Pending";
}

/** The list; only the rows in sight are in the document. */
export function Instances({ hub, lang, address, live }: { hub: WatchHub; lang: Language; address: URL; live: ReactNode }) {
  const say = words[lang];
  const watched = useInstances(hub);
  const wanted = address.searchParams.get("q") ?? "";
  const all = useMemo(
    () => [...watched.things.values()].sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true })),
    [watched.things],
  );
  const shown = useMemo(() => {
    const sought = wanted.trim().toLowerCase();
    return sought === "" ? all : all.filter((one) => text(one).includes(sought));
  }, [all, wanted]);
  const filter = (value: string) => go(value === "" ? "/instances" : `/instances?q=${encodeURIComponent(value)}`, true);

  return (
    <main>
      <div className="bar">
        <h1>{say.instances}</h1>
        <input type="search" value={wanted} placeholder={say.filter} aria-label={say.filter} onChange={(event) => filter(event.target.value)} />
        <span className="muted" role="status">{watched.loaded ? say.count(shown.length, all.length) : say.loading}</span>
        <span className="spring" />
        {live}
      </div>
      {watched.refused !== "" && <p role="alert" className="bad">{watched.refused}</p>}
      {watched.loaded && all.length === 0 && <p className="empty">{say.none}</p>}
      {all.length > 0 && shown.length === 0 && (
        <p className="empty">
          {say.noneMatch} <button type="button" className="quiet" onClick={() => filter("")}>{say.clearFilter}</button>
        </p>
      )}
      {shown.length > 0 && <Grid rows={shown} lang={lang} />}
    </main>
  );
}

function key(one: Instance): string {
  return `${one.metadata.namespace}/${one.metadata.name}`;
}

function text(one: Instance): string {
  return `${key(one)} ${one.spec.displayName ?? ""} ${one.status?.host ?? ""} ${addressesOf(one)}`.toLowerCase();
}

function Grid({ rows, lang }: { rows: Instance[]; lang: Language }) {
  const say = words[lang];
  const scroller = useRef<HTMLDivElement>(null);
  const [sight, setSight] = useState({ top: 0, height: 800 });
  useEffect(() => {
    const element = scroller.current;
    if (!element) return;
    const look = () => setSight({ top: element.scrollTop, height: element.clientHeight });
    look();
    element.addEventListener("scroll", look, { passive: true });
    const observer = new ResizeObserver(look);
    observer.observe(element);
    return () => {
      element.removeEventListener("scroll", look);
      observer.disconnect();
    };
  }, []);
  const first = Math.max(0, Math.floor(sight.top / ROW) - SPARE);
  const last = Math.min(rows.length, Math.ceil((sight.top + sight.height) / ROW) + SPARE);
  const heads = [say.name, say.namespace, say.phase, say.host, say.addresses, say.cores, say.memory, say.console];

  return (
    <div className="grid" role="table" aria-label={say.instances} aria-rowcount={rows.length + 1}>
      <div className="row head" role="row" aria-rowindex={1}>
        {heads.map((head) => <span key={head} role="columnheader">{head}</span>)}
      </div>
      <div className="scroller" ref={scroller} role="rowgroup" tabIndex={0} aria-label={say.instances}>
        <div className="sizer" role="presentation" style={{ height: rows.length * ROW }}>
          {rows.slice(first, last).map((one, index) => (
            <Row key={one.metadata.uid} one={one} lang={lang} index={first + index} />
          ))}
        </div>
      </div>
    </div>
  );
}

function Row({ one, lang, index }: { one: Instance; lang: Language; index: number }) {
  const { name, namespace } = one.metadata;
  const shown = one.spec.displayName ?? "";
  const phase = phaseOf(one);
  const ready = one.status?.conditions?.find((condition) => condition.type === "Ready");
  const why = ready && ready.status !== "True" ? ready.message : "";
  const page = `/console/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
  return (
    <div className="row" role="row" aria-rowindex={index + 2} style={{ transform: `translateY(${index * ROW}px)` }}>
      <span role="cell" title={shown || name}>{name}{shown !== "" && <span className="muted"> {shown}</span>}</span>
      <span role="cell">{namespace}</span>
      <span role="cell" title={why}><i className={`dot ${phase}`} aria-hidden="true" />{phaseWord(lang, phase)}</span>
      <span role="cell">{one.status?.host ?? ""}</span>
      <span role="cell" className="mono">{addressesOf(one)}</span>
      <span role="cell" className="number">{one.spec.cpus ?? 1}</span>
      <span role="cell" className="number">{one.spec.memory ?? "1Gi"}</span>
      <span role="cell">
        <a href={page} target={`console-${one.metadata.uid}`} rel="opener">{words[lang].console}</a>
      </span>
    </div>
  );
}
