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
    if (!this.#wanted) return;
    try {
      const shown = new Notification(`${job.name}: ${standing(job)}`, { tag: job.task_id, icon: "page/icon.svg" });
      shown.addEventListener("click", () => window.focus());
    } catch {
      // Some phones allow notifications to service workers only.
    }
  }

  get #wanted() {
    try {
      return Notification.permission === "granted" && localStorage.getItem(KEY) === "1";
    } catch {
      return false;
    }
  }

  async #switch() {
    const on = !this.#wanted && (await Notification.requestPermission()) === "granted";
    try {
      localStorage.setItem(KEY, on ? "1" : "");
    } catch {
      // a browser that keeps nothing
    }
    if (!on && Notification.permission === "denied") {
      report($("gallery-message"), "The browser does not allow notifications of this page: change that in its settings.");
    }
    this.#show();
  }

  #show() {
    if ($("notify").hidden) return;
    $("notify").setAttribute("aria-pressed", String(this.#wanted));
    $("notify").textContent = this.#wanted ? "Notify me ✓" : "Notify me";
  }
}
