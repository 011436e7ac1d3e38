// One job's card: from the place in the queue to the video, and what can be done with it.

import { FORMATS, currentKey, file, fileUrl, preview, randomSeed, remove, share } from "./api.js";
import { announce, element, toast } from "./dom.js";
import { advice, fault, keptUntil, length, size, standing, values } from "./words.js";

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
  #armed = 0;
  #busy = false;

  constructor(job, record, gallery) {
    Object.assign(this, { job, record, gallery, status: "" });
    const created = new Date(job.created_at);
    this.name = record?.name ?? `Video of ${created.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
    const title = `job-${job.task_id}`;
    this.screen = element("div", { class: "screen" });
    this.standing = element("p", { class: "standing" });
    this.progress = element("progress", { max: 1, value: 0, "aria-label": `Progress of ${this.name}` });
    this.detail = element("p", { class: "detail" });
    this.actions = element("div", { class: "actions" });
    this.article = element(
      "article",
      { tabIndex: -1, "aria-labelledby": title },
      this.screen,
      element(
        "div",
        { class: "about" },
        element("h3", { id: title }, this.name),
        this.standing,
        this.progress,
        this.detail,
        this.actions,
      ),
    );
    this.item = element("li", { class: "card" }, this.article);
    this.item.dataset.id = job.task_id;
    const { width, height } = job.parameters;
    this.screen.style.setProperty("--shape", width / height);
    if (record?.thumbnail) this.poster = URL.createObjectURL(record.thumbnail);
  }

  update(job) {
    const before = this.status;
    Object.assign(this, { job, status: job.status });
    const state = job.cancel_requested && job.status === "started" ? "stopping" : job.status;
    this.item.dataset.status = job.status;
    this.standing.textContent = standing(job);
    this.#progress();
    if (job.preview && job.preview !== this.#preview.version) this.#look(job.preview);
    if (this.state !== state) {
      this.state = state;
      this.#rebuild();
      if (before && before !== job.status) announce(`${this.name}: ${standing(job)}`);
    }
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

  #rebuild() {
    const focused = this.actions.contains(document.activeElement);
    this.#screen();
    this.detail.textContent = this.#says();
    this.actions.replaceChildren(...this.#buttons());
    if (focused) (this.actions.querySelector("button, a") ?? this.article).focus();
  }

  /** Show the latest preview, unless a later one or the end came while it was fetched. */
  async #look(version) {
    this.#preview.version = version;
    const picture = await preview(this.job.task_id);
    if (!picture || this.status !== "started" || this.#preview.version !== version) return;
    if (this.#preview.url) URL.revokeObjectURL(this.#preview.url);
    this.#preview.url = URL.createObjectURL(picture);
    this.#screen();
  }

  #says() {
    const { status, parameters, result, error, expires_at: until } = this.job;
    const draft = parameters.profile === "draft" ? "draft · " : "";
    const about = `${draft}${length(parameters.num_frames, parameters.fps)} · ${values(parameters)}`;
    if (status === "finished") {
      const kept = until ? `\n${size(result.bytes)}, kept until ${keptUntil(until)}` : "";
      return about + kept;
    }
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
    const picture = seen || this.poster
      ? element("img", { src: seen || this.poster, alt: "", class: seen ? "preview" : "" })
      : element("span", { class: "blank", "aria-hidden": "true" });
    this.screen.replaceChildren(picture);
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
      player.src = await this.#blobUrl();
    } catch (error) {
      this.#fault(error);
    }
  }

  /** The address of the video for a player of this page. */
  source() {
    return currentKey() ? this.#blobUrl() : fileUrl(this.job.task_id);
  }

  async #blobUrl(format = "mp4") {
    // A video element cannot show a key, so with one the page fetches the video itself.
    if (!this.#urls.has(format)) {
      this.#urls.set(format, URL.createObjectURL(await file(this.job.task_id, format)));
    }
    return this.#urls.get(format);
  }

  #buttons() {
    const button = (text, action, className = "") =>
      element(
        "button",
        { type: "button", class: className, "aria-label": `${text}: ${this.name}`, on: { click: (e) => action(e.target) } },
        text,
      );
    const repeat = this.record?.picture
      ? [
          button("Another seed", () => this.#again(), "quiet"),
          button(this.record.group ? "Compare" : "Enlarge", () => this.gallery.compare(this), "quiet"),
          button("Change", () => this.gallery.actions.change(this.record, this.job), "quiet"),
        ]
      : [];
    const minor = (...buttons) => element("div", { class: "minor" }, ...buttons);
    const dispose = button("Delete", (pressed) => this.#delete(pressed), "quiet danger");
    switch (this.state) {
      case "queued":
      case "started":
        return [button("Cancel", () => this.#cancel())];
      case "stopping":
        return [];
      case "finished":
        return [...this.#downloads(), button("Copy link", () => this.#copy()), minor(...repeat, dispose)];
      case "failed":
        if (!this.record?.picture) return [minor(dispose)];
        return [button("Try again", () => this.#again()), minor(repeat.at(-1), dispose)];
      default:
        return [minor(...repeat, dispose)];
    }
  }

  #downloads() {
    const made = (this.job.result.files ?? []).map((each) => each.format);
    const others = Object.keys(FORMATS).filter((format) => made.includes(format));
    return [
      this.#download("mp4", "Download", "button primary"),
      ...others.map((format) => this.#download(format, FORMATS[format], "button")),
    ];
  }

  #download(format, text, kind) {
    const link = element("a", {
      class: kind,
      href: fileUrl(this.job.task_id, format),
      download: `${this.name}.${format}`,
      "aria-label": `${text}: ${this.name}`,
    }, text);
    link.addEventListener("click", async (event) => {
      if (link.href.startsWith("blob:")) return;
      // The service names the file by the job's id, and wants the key where there is one: so the page fetches it.
      event.preventDefault();
      try {
        link.href = await this.#blobUrl(format);
        link.click();
      } catch (error) {
        this.#fault(error);
      }
    });
    return link;
  }

  async #copy() {
    await this.#working(async () => {
      // A key cannot travel in a link: with one, the service signs a link that works without.
      const shared = currentKey() ? await share(this.job.task_id) : null;
      const link = new URL(shared?.url ?? fileUrl(this.job.task_id), location.href).href;
      const until = shared ? ` Everybody who has it can watch the video until ${keptUntil(shared.expires_at)}.` : "";
      toast((await copy(link)) ? `The link is copied.${until}` : `Copy this link: ${link}`);
    });
  }

  async #again() {
    await this.#working(() => this.gallery.actions.again(this.record, this.job, randomSeed()));
  }

  async #cancel() {
    await this.#working(async () => {
      const job = await remove(this.job.task_id);
      if (job) this.gallery.actions.changed(job);
      else this.gallery.actions.removed(this.job.task_id);
    });
  }

  async #delete(pressed) {
    if (!this.#armed) {
      this.#armed = setTimeout(() => this.#disarm(pressed), 5000);
      pressed.textContent = "Delete for good?";
      pressed.setAttribute("aria-label", `Delete for good: ${this.name}`);
      announce(`Press again to delete ${this.name} for good.`);
      return;
    }
    this.#disarm(pressed);
    await this.#working(async () => {
      const left = await remove(this.job.task_id).catch((error) => {
        if (error.status !== 404) throw error;
      });
      if (left) this.gallery.actions.changed(left);
      else {
        toast(`${this.name} is deleted.`);
        this.gallery.actions.removed(this.job.task_id);
      }
    });
  }

  #disarm(pressed) {
    clearTimeout(this.#armed);
    this.#armed = 0;
    pressed.textContent = "Delete";
    pressed.setAttribute("aria-label", `Delete: ${this.name}`);
  }

  async #working(action) {
    if (this.#busy) return;
    this.#busy = true;
    try {
      await action();
    } catch (error) {
      this.#fault(error);
    } finally {
      this.#busy = false;
    }
  }

  #fault(error) {
    toast(fault(error));
    this.gallery.actions.refused(error);
  }
}

/** Copy text; returns whether that worked. Without TLS browsers have only the old way. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const field = element("textarea", { value: text, readOnly: true, class: "visually-hidden" });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    before?.focus();
    return done;
  }
}
