// What reaches a person who looks elsewhere: progress in the tab's title and, where it is wanted, a notification.

import { $, report } from "./dom.js";
import { standing } from "./words.js";

const KEY = "svd-service.notify";
const TITLE = document.title;

/** Follows the jobs of `cards()`. */
export class Attention {
  #ready = 0;
  #known = new Map();

  constructor(cards) {
    this.cards = cards;
    // Browsers notify on secure pages alone: with TLS, or on the same machine.
    $("notify").hidden = !("Notification" in window) || !isSecureContext;
    $("notify").addEventListener("click", () => this.#switch());
    document.addEventListener("visibilitychange", () => this.update());
    this.#show();
  }

  /** Something has changed. */
  update() {
    const jobs = this.cards().map(({ job, name }) => ({ ...job, name }));
    for (const job of jobs) this.#notice(job);
    if (!document.hidden) this.#ready = 0;
    const running = jobs.filter(({ status }) => status === "started");
    const open = jobs.filter(({ status }) => ["queued", "started"].includes(status)).length;
    const share = running.length ? Math.max(...running.map(({ progress }) => progress?.fraction ?? 0)) : 0;
    const waiting = open > 1 ? ` · ${open} open` : "";
    const now = running.length ? `${Math.round(100 * share)} %${waiting}` : open ? `Waiting${waiting}` : "";
    document.title = [this.#ready && `✓ ${this.#ready} ready`, now, TITLE].filter(Boolean).join(" · ");
  }

  #notice(job) {
    const before = this.#known.get(job.task_id);
    this.#known.set(job.task_id, job.status);
    const ended = ["queued", "started"].includes(before) && ["finished", "failed"].includes(job.status);
    if (!ended || !document.hidden) return;
    if (job.status === "finished") this.#ready++;
    if (this.#wanted) notify(`${job.name}: ${standing(job)}`, job.task_id);
  }

  get #wanted() {
    try {
      return Notification.permission === "granted" && localStorage.getItem(KEY) === "1";
    } catch {
      return false;
    }
  }

  async #switch() {
    const allowed = !this.#wanted && (await Notification.requestPermission()) === "granted";
    const on = allowed && notify("You will be notified like this.", "sample");
    try {
      localStorage.setItem(KEY, on ? "1" : "");
    } catch {
      // a browser that keeps nothing
    }
    if (allowed && !on) report($("composer-message"), "This browser shows no notifications of pages. The tab's title has the progress.");
    if (!on && Notification.permission === "denied") {
      report($("composer-message"), "The browser does not allow notifications of this page: change that in its settings.");
    }
    this.#show();
  }

  #show() {
    if ($("notify").hidden) return;
    $("notify").setAttribute("aria-pressed", String(this.#wanted));
    $("notify").textContent = this.#wanted ? "Notify me ✓" : "Notify me";
  }
}

/** Show a notification; returns whether the browser does. Some phones allow it to service workers only. */
function notify(text, tag) {
  try {
    const shown = new Notification(text, { tag, icon: "page/icon.svg" });
    shown.addEventListener("click", () => window.focus());
    return true;
  } catch {
    return false;
  }
}
