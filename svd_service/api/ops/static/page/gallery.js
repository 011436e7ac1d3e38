// The jobs, a card each (card.js): which are shown, in which order, and what concerns several of them.

import { Card, hasEnded } from "./card.js";
import { $ } from "./dom.js";

const SPENT = new Set(["failed", "cancelled", "expired"]);

/** `again(record, job, seed)`, `change(record, job)`, `removed(id)`, `refused(error)`. */
export class Gallery {
  #cards = new Map();

  constructor(actions) {
    this.actions = actions;
  }

  has(id) {
    return this.#cards.has(id);
  }

  /** Show a job: a new card, or what has changed on the one there is. */
  show(job, record = null, { first = true } = {}) {
    let card = this.#cards.get(job.task_id);
    if (!card) {
      card = new Card(job, record, this);
      this.#cards.set(job.task_id, card);
      if (first) $("gallery").prepend(card.item);
      else $("gallery").append(card.item);
    }
    card.update(job);
    this.#count();
    return card;
  }

  /** Show a card's video beside those that were made of the same image at once. */
  compare(card) {
    const group = card.record?.group;
    const others = [...this.#cards.values()].filter((each) => each === card || (group && each.record?.group === group));
    this.actions.compare(others.sort((a, b) => a.job.parameters.seed - b.job.parameters.seed));
  }

  /** The ids of jobs without a video: expired, failed and cancelled ones. */
  get spent() {
    return [...this.#cards.values()].filter(({ job }) => SPENT.has(job.status)).map(({ job }) => job.task_id);
  }

  /** The ids of finished jobs whose video's time is over. */
  get overdue() {
    const over = ({ job }) => job.status === "finished" && job.expires_at && Date.parse(job.expires_at) <= Date.now();
    return [...this.#cards.values()].filter(over).map(({ job }) => job.task_id);
  }

  drop(id) {
    const card = this.#cards.get(id);
    if (!card) return;
    const neighbour = card.item.nextElementSibling ?? card.item.previousElementSibling;
    const focused = card.item.contains(document.activeElement);
    card.close();
    this.#cards.delete(id);
    this.#count();
    if (focused) (neighbour?.querySelector("article") ?? $("gallery-title")).focus();
  }

  /** Say of the jobs that have not ended why nothing more is known of them. */
  stall(text) {
    for (const card of this.#cards.values()) if (!hasEnded(card.job)) card.standing.textContent = text;
  }

  clear() {
    for (const id of [...this.#cards.keys()]) this.drop(id);
  }

  #count() {
    $("empty").hidden = this.#cards.size > 0;
    $("clear").hidden = this.spent.length < 2;
  }
}
