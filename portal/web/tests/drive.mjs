// Drives one page of Debian's Chromium (playwright-core) or Firefox (puppeteer-core over WebDriver BiDi) by lines of JSON:
// `[verb, ...arguments]` in, `{"value": ...}` or `{"error": "..."}` out. Ends, with the browser, when its input ends.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const QUIET = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const SIZE = { width: 1280, height: 800 };
const WAIT = 90_000;
// Runs in every page before its own code: what the policy forbids, and the sockets, so that a test can cut them.
const BEFORE = `
  window.__violations = [];
  document.addEventListener("securitypolicyviolation", (event) => window.__violations.push(event.violatedDirective + " " + event.blockedURI));
  window.__sockets = [];
  window.WebSocket = new Proxy(WebSocket, {
    construct(kind, given) {
      const made = new kind(...given);
      window.__sockets.push(made);
      return made;
    },
  });
`;

const [, , name] = process.argv;
const profile = mkdtempSync(join(tmpdir(), `nano-${name}-`));
const problems = [];

function listen(page) {
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
}

async function chromium() {
  const { chromium: engine } = await import("playwright-core");
  const context = await engine.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium", headless: true, args: QUIET, ignoreHTTPSErrors: true, viewport: SIZE,
  });
  await context.addInitScript(BEFORE);
  const page = await context.newPage();
  listen(page);
  return {
    goto: (url) => page.goto(url).then(() => null),
    type: (selector, text) => page.locator(selector).first().pressSequentially(text, { timeout: WAIT }),
    click: (selector) => page.locator(selector).first().click({ timeout: WAIT }),
    press: (key) => page.keyboard.press(key),
    evaluate: (code) => page.evaluate(code),
    screenshot: (path) => page.screenshot({ path }).then(() => null),
    dark: (on) => page.emulateMedia({ colorScheme: on ? "dark" : "light" }),
    close: () => context.close(),
  };
}

async function firefox() {
  const { default: puppeteer } = await import("puppeteer-core");
  const browser = await puppeteer.launch({
    browser: "firefox", executablePath: "/usr/bin/firefox-esr", headless: true, acceptInsecureCerts: true,
    userDataDir: profile, defaultViewport: SIZE,
  });
  const page = await browser.newPage();
  await page.evaluateOnNewDocument(BEFORE);
  listen(page);
  return {
    goto: (url) => page.goto(url).then(() => null),
    type: async (selector, text) => {
      await page.waitForSelector(selector, { timeout: WAIT });
      await page.type(selector, text);
    },
    click: async (selector) => {
      await page.waitForSelector(selector, { timeout: WAIT });
      await page.click(selector);
    },
    press: (key) => page.keyboard.press(key),
    evaluate: (code) => page.evaluate(code),
    screenshot: (path) => page.screenshot({ path }).then(() => null),
    dark: () => null,
    close: () => browser.close(),
  };
}

const verbs = await { chromium, firefox }[name]();
// The drivers' own waiting evaluates text inside the page, which the page's policy forbids.
verbs.wait = async (code) => {
  for (const until = performance.now() + WAIT; performance.now() < until; ) {
    if (await verbs.evaluate(code)) return;
    await new Promise((wake) => setTimeout(wake, 50));
  }
  throw new Error(`still not so: ${code}`);
};
const answer = (doc) => process.stdout.write(`${JSON.stringify(doc)}\n`);
answer({ value: "ready" });
try {
  for await (const line of createInterface({ input: process.stdin })) {
    const [verb, ...given] = JSON.parse(line);
    try {
      answer({ value: verb === "problems" ? problems.splice(0) : ((await verbs[verb](...given)) ?? null) });
    } catch (error) {
      answer({ error: String(error) });
    }
  }
} finally {
  await verbs.close();
  rmSync(profile, { recursive: true, force: true });
}
