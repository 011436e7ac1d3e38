// Variations that were submitted together, as one card: how far they are, and what is done with all of them.

import { currentKey, sheet, sheetUrl } from "./api.js";
import { hasEnded } from "./card.js";
import { confirmed } from "./confirm.js";
import { announce, element } from "./dom.js";
import { standingTogether } from "./words.js";

/** The order of variations: by motion, then by seed. */
const order = ({ job: { parameters } }) => parameters.motion_bucket_id * 2 ** 32 + parameters.seed;

export class Group {
  #cards = new Set();

  #open = 0;

  /**
   * Calls `compare(cards)`, `cancel(cards)`, `remove(cards)` and `failed(error)`. A `shared` one is the service's, too, which
   * has a contact sheet of it.
   */
  constructor(id, name, { shared, compare, cancel, remove, failed }) {
    Object.assign(this, { id, name });
    this.title = element("h3", { id: `group-${id}` });
    this.standing = element("p", { class: "standing" });
    this.progress = element("progress", { max: 1, value: 0, "aria-label": `Progress of all videos of ${name}` });
    const button = (text, action, className = "") => {
      const label = `${text}: all videos of ${name}`;
      return element("button", { type: "button", class: className, "aria-label": label, on: { click: action } }, text);
    };
    this.compare = button("Compare", () => compare(this.cards), "primary");
    this.cancel = button("Cancel all", () => cancel(this.cards.filter(({ job }) => !hasEnded(job))));
    const words = { text: "Delete all", question: "Delete for good?", name: () => `all videos of ${name}` };
    this.remove = button("Delete all", confirmed(() => remove(this.cards), words), "quiet danger confirm");
    this.list = element("ul", { class: "members" });
    this.sheet = shared ? this.#sheet(failed) : null;
    const actions = element("div", { class: "actions" }, this.compare, this.sheet, this.cancel, this.remove);
    this.item = element(
      "li",
      { class: "batch panel", "aria-labelledby": `group-${id}` },
      element("div", { class: "about" }, this.title, this.standing, this.progress, actions),
      this.list,
    );
  }

  get cards() {
    return [...this.#cards].sort((a, b) => order(a) - order(b));
  }

  add(card) {
    this.#cards.add(card);
    const next = this.cards[this.cards.indexOf(card) + 1];
    this.list.insertBefore(card.item, next?.item ?? null);
    this.update();
  }

  /** Take a card away; returns whether others are left. */
  drop(card) {
    this.#cards.delete(card);
    this.update();
    if (!this.#cards.size) this.item.remove();
    return this.#cards.size > 0;
  }

  update() {
    const jobs = this.cards.map(({ job }) => job);
    const ready = jobs.some(({ status }) => status === "finished");
    const open = jobs.filter((job) => !hasEnded(job)).length;
    const done = jobs.reduce((sum, job) => sum + (hasEnded(job) ? 1 : (job.progress?.fraction ?? 0)), 0);
    this.title.textContent = `${jobs.length} ${jobs.length === 1 ? "video" : "videos"} of ${this.name}`;
    this.standing.textContent = standingTogether(jobs);
    this.progress.value = jobs.length ? done / jobs.length : 1;
    this.progress.hidden = !open;
    this.compare.disabled = !ready;
    if (this.sheet) this.sheet.hidden = !ready;
    this.cancel.hidden = !open;
    this.remove.hidden = open > 0;
    if (this.#open && jobs.length && !open) announce(`${this.title.textContent}: ${this.standing.textContent}`);
    this.#open = open;
  }

  /** A link to the thumbnails of all videos in one image. */
  #sheet(failed) {
    const properties = { class: "button", href: sheetUrl(this.id), download: `${this.name}.jpg` };
    const label = `Contact sheet: all videos of ${this.name}`;
    const link = element("a", { ...properties, "aria-label": label }, "Contact sheet");
    link.addEventListener("click", async (event) => {
      // A link cannot show a key, so with one the page fetches the image.
      if (!currentKey()) return;
      event.preventDefault();
      try {
        const url = URL.createObjectURL(await sheet(this.id));
        element("a", { href: url, download: link.download }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
      } catch (error) {
        failed(error);
      }
    });
    return link;
  }
}
