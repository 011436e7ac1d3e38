// What can be done with a job, as buttons of its card.

import { cancel, currentKey, fileUrl, pin, randomSeed, share } from "./api.js";
import { confirmed } from "./confirm.js";
import { element } from "./dom.js";
import { FORMATS } from "./options.js";
import { keptUntil } from "./words.js";

export class Actions {
  #busy = false;

  constructor(card) {
    this.card = card;
  }

  /** The buttons of the card's state. */
  buttons() {
    const { card } = this;
    const dispose = this.#button("Delete", null, "quiet danger confirm");
    dispose.addEventListener("click", this.#deletion());
    const minor = (...buttons) => element("div", { class: "minor" }, ...buttons);
    switch (card.state) {
      case "queued":
      case "started":
        return [this.#button("Cancel", () => this.#cancel())];
      case "stopping":
        return [];
      case "finished":
        return [...this.#downloads(), this.#button("Copy link", () => this.#copy()), minor(this.#keep(), ...this.#repeats({ look: true }), dispose)];
      case "failed":
        if (!card.record?.sent) return [minor(dispose)];
        return [this.#button("Try again", () => this.#again()), minor(this.#repeats().at(-1), dispose)];
      default:
        return [minor(...this.#repeats(), dispose)];
    }
  }

  #keep() {
    const { card } = this;
    const { pinned } = card.job;
    const button = this.#button("Keep", () => this.#working(async () => card.gallery.actions.changed(await pin(card.job.task_id, !pinned))), "quiet");
    button.setAttribute("aria-pressed", String(pinned));
    if (pinned) button.textContent = "Kept ✓";
    return button;
  }

  /** What leads to the next video; with `look`, to this one beside others. The image is in the browser that sent it. */
  #repeats({ look = false } = {}) {
    const { card } = this;
    const { gallery, group, record } = card;
    const again = this.#button("Another seed", () => this.#again(), "quiet");
    const view = this.#button(group ? "Compare" : "Enlarge", () => gallery.compare(card), "quiet");
    const change = this.#button("Change", () => gallery.actions.change(record, card.job), "quiet");
    return [record?.sent && again, look && view, record?.sent && change].filter(Boolean);
  }

  #button(text, action, className = "") {
    const label = `${text}: ${this.card.name}`;
    const button = element("button", { type: "button", class: className, "aria-label": label }, text);
    if (action) button.addEventListener("click", action);
    return button;
  }

  #downloads() {
    const made = (this.card.job.result.files ?? []).map((each) => each.format);
    const others = Object.keys(FORMATS.options).filter((format) => made.includes(format));
    return [
      this.#download("mp4", "Download", "button primary"),
      ...others.map((format) => this.#download(format, FORMATS.options[format], "button")),
    ];
  }

  #download(format, text, kind) {
    const { card } = this;
    const link = element("a", {
      class: kind,
      href: fileUrl(card.job.task_id, format),
      download: `${card.name}.${format}`,
      "aria-label": `${text}: ${card.name}`,
    }, text);
    link.addEventListener("click", async (event) => {
      if (link.href.startsWith("blob:")) return;
      // The service names the file by the job's id, and requires the key where there is one: so the page fetches it.
      event.preventDefault();
      try {
        link.href = await card.blobUrl(format);
        link.click();
      } catch (error) {
        card.fault(error);
      }
    });
    return link;
  }

  /** Save the MP4, without a press on the link. */
  save() {
    this.card.actions.querySelector("a[download$='.mp4']")?.click();
  }

  async #copy() {
    const { card } = this;
    await this.#working(async () => {
      // A key cannot travel in a link: with one, the service signs a link that works without.
      const shared = currentKey() ? await share(card.job.task_id) : null;
      const link = new URL(shared?.url ?? fileUrl(card.job.task_id), location.href).href;
      const until = shared ? ` Everybody who has it can watch the video until ${keptUntil(shared.expires_at)}.` : "";
      card.report((await copy(link)) ? `The link is copied.${until}` : `Copy this link: ${link}`);
    });
  }

  async #again() {
    await this.#working(() => this.card.gallery.actions.again(this.card.record, this.card.job, randomSeed()));
  }

  async #cancel() {
    const { job, gallery } = this.card;
    await this.#working(async () => gallery.actions.changed(await cancel(job.task_id)));
  }

  #deletion() {
    const words = { text: "Delete", question: "Delete for good?", name: () => this.card.name };
    return confirmed(() => this.#working(() => this.card.gallery.delete(this.card)), words);
  }

  async #working(action) {
    if (this.#busy) return;
    this.#busy = true;
    try {
      await action();
    } catch (error) {
      this.card.fault(error);
    } finally {
      this.#busy = false;
    }
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
