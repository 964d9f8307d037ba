/** All watches of the page over one socket: the state of each kind is kept here, and told once in a frame. */

import { session } from "./api";

export interface Thing {
  metadata: { name: string; namespace?: string; uid: string; resourceVersion: string };
}

interface Said {
  id?: number;
  op?: string;
  events?: { type: string; object: Thing }[];
  error?: { code?: number; message?: string };
}

export type Connection = "connecting" | "live" | "reconnecting";

const HEARTBEAT = 20_000;
const FIRST_PAUSE = 500;
const LAST_PAUSE = 15_000;
const INITIAL_END = "k8s.io/initial-events-end";

/** One watched collection. `things` is replaced by a new map at each change; `loaded` once the first state is complete. */
export class Watched<T extends Thing> {
  things: ReadonlyMap<string, T> = new Map<string, T>();
  loaded = false;
  refused = "";
  version = "";
  private next: Map<string, T> | null = null;
  private readonly listeners = new Set<() => void>();

  constructor(readonly path: string) {}

  /** Call `listener` whenever `things`, `loaded` or `refused` have changed. */
  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** What is there now; the same object as long as nothing changes. */
  snapshot = (): ReadonlyMap<string, T> => this.things;

  /** Begin anew: what is there stays on the screen until the new state is complete. */
  restart(): void {
    this.version = "";
    this.next = new Map();
  }

  /** Take an event in; true when the first state is complete with it. */
  take(type: string, object: T): boolean {
    const { uid, resourceVersion } = object.metadata;
    this.version = resourceVersion || this.version;
    const into = (this.next ??= new Map(this.things));
    if (type === "DELETED") into.delete(uid);
    else if (type !== "BOOKMARK") into.set(uid, object);
    const annotations = (object.metadata as { annotations?: Record<string, string> }).annotations;
    const complete = annotations?.[INITIAL_END] === "true";
    this.loaded ||= complete;
    return complete;
  }

  /** Show what has come, unless the first state of a new beginning is still on its way. */
  flush(whole: boolean): void {
    if (this.next === null || !whole) return;
    this.things = this.next;
    this.next = null;
    for (const listener of this.listeners) listener();
  }
}

/** The one socket. It connects again by itself, and goes on where each watch was. */
export class WatchHub {
  connection: Connection = "connecting";
  private socket: WebSocket | null = null;
  private readonly watched = new Map<number, { thing: Watched<Thing>; fresh: boolean }>();
  private readonly listeners = new Set<() => void>();
  private pause = FIRST_PAUSE;
  private heard = 0;
  private beat = 0;
  private frame = 0;
  private ids = 0;
  private closed = false;

  constructor(private readonly onLoggedOut: () => void) {
    document.addEventListener("visibilitychange", this.wake);
    window.addEventListener("online", this.wake);
    this.connect();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  state = (): Connection => this.connection;

  /** Watch a collection until the returned function is called. */
  watch(thing: Watched<Thing>): () => void {
    const id = ++this.ids;
    this.watched.set(id, { thing, fresh: true });
    this.ask(id);
    return () => {
      this.watched.delete(id);
      this.send({ op: "unwatch", id });
    };
  }

  close(): void {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.wake);
    window.removeEventListener("online", this.wake);
    window.clearInterval(this.beat);
    this.socket?.close();
  }

  private connect(): void {
    const socket = new WebSocket(`wss://${location.host}/ws/v1/watch`, "nano.watch.v1");
    this.socket = socket;
    socket.onopen = () => {
      this.pause = FIRST_PAUSE;
      this.heard = performance.now();
      this.become("live");
      for (const id of this.watched.keys()) this.ask(id);
      window.clearInterval(this.beat);
      this.beat = window.setInterval(this.check, HEARTBEAT);
    };
    socket.onmessage = (message: MessageEvent<string>) => {
      this.heard = performance.now();
      this.hear(JSON.parse(message.data) as Said);
    };
    socket.onclose = () => {
      if (this.socket !== socket || this.closed) return;
      this.socket = null;
      this.become("reconnecting");
      const wait = this.pause * (0.5 + Math.random() / 2);
      this.pause = Math.min(LAST_PAUSE, this.pause * 2);
      window.setTimeout(() => void this.again(), wait);
    };
  }

  /** A refused handshake looks like any other failure to a page, so ask whether the session is over. */
  private async again(): Promise<void> {
    if (this.closed || this.socket) return;
    try {
      if ((await session()) === null) {
        this.onLoggedOut();
        return;
      }
    } catch {
      // the server is away: the socket's own failure leads to the next try
    }
    this.connect();
  }

  private readonly check = (): void => {
    if (performance.now() - this.heard > 2.5 * HEARTBEAT) this.socket?.close();
    else this.send({ op: "ping" });
  };

  /** After a sleep the socket may be dead without knowing it. */
  private readonly wake = (): void => {
    if (document.visibilityState !== "visible") return;
    if (this.socket?.readyState === WebSocket.OPEN) this.check();
    else if (!this.socket) void this.again();
  };

  private ask(id: number): void {
    const held = this.watched.get(id);
    if (!held) return;
    const { thing } = held;
    held.fresh = !thing.version;
    if (held.fresh) thing.restart();
    this.send({ op: "watch", id, path: thing.path, resourceVersion: thing.version, bookmarks: true });
  }

  private send(doc: unknown): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(doc));
  }

  private hear(said: Said): void {
    const held = said.id === undefined ? undefined : this.watched.get(said.id);
    if (!held || said.id === undefined) return;
    const { thing } = held;
    if (said.error) {
      if (said.error.code === 410) {
        thing.version = "";
        this.ask(said.id);
      } else {
        thing.refused = said.error.message ?? "";
        thing.restart();
        thing.flush(true);
      }
      return;
    }
    for (const event of said.events ?? []) {
      if (thing.take(event.type, event.object)) held.fresh = false;
    }
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      for (const one of this.watched.values()) one.thing.flush(!one.fresh);
    });
  }

  private become(connection: Connection): void {
    this.connection = connection;
    for (const listener of this.listeners) listener();
  }
}
