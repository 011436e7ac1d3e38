// One job's card: from the place in the queue to the video, and what can be done with it.

import { currentKey, file, fileUrl, preview } from "./api.js";
import { Actions } from "./card_actions.js";
import { announce, element, report } from "./dom.js";
import { advice, expiry, fault, lasting, size, standing, values } from "./words.js";

const ENDED = new Set(["finished", "failed", "cancelled", "expired"]);
export const hasEnded = (job) => ENDED.has(job.status);

const still = matchMedia("(prefers-reduced-motion: reduce)");

// Videos play while they are seen, and are fetched when they are about to be.
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) target.pause();
      else target.dispatchEvent(new Event("seen"));
    }
  },
  { rootMargin: "100px" },
);

export class Card {
  #urls = new Map();
  #preview = { version: 0, url: null };

  constructor(job, record, gallery) {
    Object.assign(this, { job, record, gallery, status: "" });
    const time = new Date(job.created_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    this.subject = record?.name ?? time;
    this.name = record?.name ?? `Video of ${time}`;
    const title = `job-${job.task_id}`;
    this.screen = element("div", { class: "screen" });
    this.standing = element("p", { class: "standing" });
    this.progress = element("progress", { max: 1, value: 0, "aria-label": `Progress of ${this.name}` });
    this.detail = element("p", { class: "detail" });
    this.actions = element("div", { class: "actions" });
    this.message = element("p", { class: "message", hidden: true });
    this.expiry = element("p", { class: "expiry", hidden: true });
    this.box = element("input", { type: "checkbox", "aria-label": `Select ${this.name}`, on: { change: () => gallery.selected() } });
    this.does = new Actions(this);
    this.article = element(
      "article",
      { tabIndex: -1, "aria-labelledby": title },
      this.screen,
      element("label", { class: "pick" }, this.box),
      element(
        "div",
        { class: "about" },
        element("h3", { id: title }, this.name),
        this.standing,
        this.progress,
        this.detail,
        this.expiry,
        this.actions,
        this.message,
      ),
    );
    this.item = element("li", { class: "card" }, this.article);
    this.item.dataset.id = job.task_id;
    const { output_width: width, output_height: height } = job.video;
    this.screen.style.setProperty("--shape", width / height);
    if (record?.thumbnail) this.poster = URL.createObjectURL(record.thumbnail);
  }

  /** The id of the group of videos that it belongs to: the service's, or one that this page made; null: none. */
  get group() {
    const { group, together } = this.record ?? {};
    return this.job.group_id ?? (together > 1 ? group : null);
  }

  update(job) {
    const before = this.status;
    Object.assign(this, { job, status: job.status });
    const state = job.cancel_requested && job.status === "started" ? "stopping" : job.status;
    const shown = `${state} ${job.pinned}`;
    this.item.dataset.status = job.status;
    this.standing.textContent = standing(job);
    this.#progress();
    this.tick();
    if (job.preview && job.preview !== this.#preview.version) this.#look(job.preview);
    if (this.shown !== shown) {
      Object.assign(this, { state, shown });
      this.#rebuild(before !== job.status);
      if (before && before !== job.status) announce(`${this.name}: ${standing(job)}`);
    }
  }

  /** Say how long the video is kept; the nearer the end, the louder. */
  tick() {
    const { text, soon } = expiry(this.job);
    this.expiry.textContent = text;
    this.expiry.hidden = !text;
    this.expiry.classList.toggle("soon", soon);
  }

  close() {
    this.item.remove();
    for (const url of [...this.#urls.values(), this.#preview.url, this.poster]) if (url) URL.revokeObjectURL(url);
    const player = this.screen.querySelector("video");
    if (player) watcher.unobserve(player);
  }

  #progress() {
    this.progress.hidden = hasEnded(this.job);
    if (this.job.status === "queued") this.progress.value = 0;
    else this.progress.value = this.job.progress?.fraction ?? 0;
  }

  /** `moved`: it is another state, and not only pinned. */
  #rebuild(moved) {
    const focused = this.actions.contains(document.activeElement);
    if (moved) this.#screen();
    this.detail.textContent = this.#summary();
    this.actions.replaceChildren(...this.does.buttons());
    if (focused) (this.actions.querySelector("button, a") ?? this.article).focus();
  }

  /** Show the latest preview, unless a later one or the end came while it was fetched. */
  async #look(version) {
    this.#preview.version = version;
    const image = await preview(this.job.task_id);
    if (!image || this.status !== "started" || this.#preview.version !== version) return;
    if (this.#preview.url) URL.revokeObjectURL(this.#preview.url);
    this.#preview.url = URL.createObjectURL(image);
    this.#screen();
  }

  #summary() {
    const { status, parameters, video, result, error } = this.job;
    const draft = parameters.profile === "draft" ? "draft · " : "";
    const about = `${draft}${lasting(video)} · ${values(parameters)}`;
    if (status === "finished") return `${about}\n${video.output_width} × ${video.output_height}, ${size(result.bytes)}`;
    if (status === "failed") return `${error?.message ?? ""} ${advice(error?.code)}`.trim();
    if (status === "expired") return "Its time is over and the video was deleted.";
    return about;
  }

  #screen() {
    if (this.status === "finished") {
      this.screen.replaceChildren(this.#player());
      return;
    }
    const seen = this.status === "started" && this.#preview.url;
    const image = seen || this.poster
      ? element("img", { src: seen || this.poster, alt: "", class: seen ? "preview" : "" })
      : element("span", { class: "blank", "aria-hidden": "true" });
    this.screen.replaceChildren(image);
  }

  #player() {
    const player = element("video", {
      muted: true,
      loop: true,
      playsInline: true,
      controls: true,
      preload: "metadata",
      "aria-label": `${this.name}, a video without sound`,
    });
    player.setAttribute("muted", "");
    if (this.poster) player.poster = this.poster;
    player.addEventListener("seen", async () => {
      if (!player.src) await this.#load(player);
      if (!still.matches && player.src) player.play().catch(() => {}); // a browser may ask for a click first
    });
    watcher.observe(player);
    return player;
  }

  async #load(player) {
    if (!currentKey()) {
      player.src = fileUrl(this.job.task_id);
      return;
    }
    try {
      player.src = await this.blobUrl();
    } catch (error) {
      this.fault(error);
    }
  }

  /** The address of the video for a player of this page. */
  source() {
    return currentKey() ? this.blobUrl() : fileUrl(this.job.task_id);
  }

  /** An address in this page for one of the video's files. */
  async blobUrl(format = "mp4") {
    // A video element cannot show a key, so with one the page fetches the video itself.
    if (!this.#urls.has(format)) {
      this.#urls.set(format, URL.createObjectURL(await file(this.job.task_id, format)));
    }
    return this.#urls.get(format);
  }

  /** Report what was done with this card. */
  report(text) {
    report(this.message, text);
  }

  fault(error) {
    this.report(fault(error));
    this.gallery.actions.onError(error);
  }
}
