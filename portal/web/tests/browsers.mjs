// One way to drive Debian's Chromium (playwright-core) and Firefox (puppeteer-core over WebDriver BiDi).
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

const QUIET = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

/** A page with: goto, type, click, text, evaluate, screenshot, waitFor, close; `problems` collects what it complains of. */
export async function open(browser) {
  return browser === "chromium" ? inChromium() : inFirefox();
}

async function inChromium() {
  const profile = mkdtempSync(join(tmpdir(), "nano-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium", headless: true, args: QUIET, ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 },
  });
  const page = context.pages()[0] ?? (await context.newPage());
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  return {
    problems,
    goto: (url) => page.goto(url),
    type: (selector, text) => page.fill(selector, text),
    click: (selector) => page.click(selector),
    press: (key) => page.keyboard.press(key),
    evaluate: (code, argument) => page.evaluate(code, argument),
    screenshot: (path) => page.screenshot({ path }),
    waitFor: (code, argument) => page.waitForFunction(code, argument, { timeout: 20_000 }),
    close: async () => {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}

async function inFirefox() {
  const profile = mkdtempSync(join(tmpdir(), "nano-firefox-"));
  const browser = await puppeteer.launch({
    browser: "firefox", executablePath: "/usr/bin/firefox-esr", headless: true, acceptInsecureCerts: true, userDataDir: profile,
    defaultViewport: { width: 1280, height: 800 },
  });
  const page = (await browser.pages())[0] ?? (await browser.newPage());
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  return {
    problems,
    goto: (url) => page.goto(url),
    type: async (selector, text) => {
      await page.waitForSelector(selector);
      await page.type(selector, text);
    },
    click: async (selector) => {
      await page.waitForSelector(selector);
      await page.click(selector);
    },
    press: (key) => page.keyboard.press(key),
    evaluate: (code, argument) => page.evaluate(code, argument),
    screenshot: (path) => page.screenshot({ path }),
    waitFor: (code, argument) => page.waitForFunction(code, { timeout: 20_000 }, argument),
    close: async () => {
      await browser.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}
