// The jobs, a card each (card.js): which are shown, in which order, and what concerns several of them.

import { cancel, cancelGroup, pause, remove, removeGroup } from "./api.js";
import { Card, hasEnded } from "./card.js";
import { confirmed } from "./confirm.js";
import { $, report } from "./dom.js";
import { Group } from "./group.js";
import { fault } from "./words.js";

const SPENT = new Set(["failed", "cancelled", "expired"]);

/** `again(record, job, seed)`, `change(record, job)`, `changed(job)`, `removed(id)`, `onError(error)`, `compare(cards)`. */
export class Gallery {
  #cards = new Map();
  #groups = new Map();

  constructor(actions) {
    this.actions = actions;
    $("select").addEventListener("click", () => this.#selecting($("selection").hidden));
    $("select-all").addEventListener("click", () => {
      for (const card of this.cards) card.box.checked = true;
      this.selected();
    });
    $("selected-compare").addEventListener("click", () => actions.compare(this.#picked));
    $("selected-download").addEventListener("click", () => this.#download());
    const words = { text: "Delete", question: "Delete for good?", name: () => `${this.#picked.length} videos` };
    $("selected-delete").addEventListener("click", confirmed(() => this.#each(this.#picked, "deleted"), words));
    $("clear").addEventListener("click", () => this.#each(this.#spent, "deleted"));
  }

  get cards() {
    return [...this.#cards.values()];
  }

  /** Show a job: a new card, or what has changed on the one there is. */
  show(job, record = null, { first = true } = {}) {
    let card = this.#cards.get(job.task_id);
    if (!card) {
      card = new Card(job, record, this);
      this.#cards.set(job.task_id, card);
      this.#place(card, first);
    }
    // A response that was overtaken by an event: a job that has ended does not go back.
    if (hasEnded(card.job) && !hasEnded(job)) return card;
    card.update(job);
    this.#groupOf(card)?.update();
    this.#count();
    return card;
  }

  /** Put a new card into the gallery, or into the card of its group. */
  #place(card, first) {
    let target = card;
    if (card.group) {
      target = this.#groups.get(card.group);
      const known = Boolean(target);
      if (!known) this.#groups.set(card.group, (target = this.#newGroup(card)));
      target.add(card);
      if (known) return;
    }
    if (first) $("gallery").prepend(target.item);
    else $("gallery").append(target.item);
  }

  #newGroup({ group: id, job, subject }) {
    const shared = Boolean(job.group_id);
    return new Group(id, subject, {
      shared,
      compare: (cards) => this.actions.compare(cards),
      cancel: (cards) =>
        shared ? this.#together(cards, "cancelled", cancelGroup) : this.#each(cards, "cancelled", (card) => this.#cancel(card)),
      remove: (cards) => (shared ? this.#together(cards, "deleted", removeGroup) : this.#each(cards, "deleted")),
      failed: (error) => this.#failed(error),
    });
  }

  #groupOf = (card) => this.#groups.get(card.group);

  /** Show a card's video beside those that were made of the same image at once. */
  compare(card) {
    this.actions.compare(this.#groupOf(card)?.cards ?? [card]);
  }

  /** Jobs without a video: expired, failed and cancelled ones. */
  get #spent() {
    return this.cards.filter(({ job }) => SPENT.has(job.status));
  }

  /** The ids of finished jobs whose video's time is over. */
  get overdue() {
    const over = ({ job }) => job.status === "finished" && job.expires_at && Date.parse(job.expires_at) <= Date.now();
    return this.cards.filter(over).map(({ job }) => job.task_id);
  }

  /** Update the times on the cards. */
  tick() {
    for (const card of this.cards) card.tick();
  }

  drop(id) {
    const card = this.#cards.get(id);
    if (!card) return;
    const group = this.#groupOf(card);
    const neighbour = card.item.nextElementSibling ?? card.item.previousElementSibling;
    const focused = card.item.contains(document.activeElement);
    card.close();
    this.#cards.delete(id);
    if (group && !group.drop(card)) this.#groups.delete(card.group);
    this.#count();
    if (focused) (neighbour?.querySelector("article") ?? $("gallery-title")).focus();
  }

  /** Say of the jobs that have not ended why nothing more is known of them. */
  stall(text) {
    for (const card of this.cards) if (!hasEnded(card.job)) card.standing.textContent = text;
  }

  clear() {
    for (const id of [...this.#cards.keys()]) this.drop(id);
  }

  /** Delete a card's job and what belongs to it. */
  async delete(card) {
    const id = card.job.task_id;
    const left = await remove(id).catch((error) => {
      if (error.status !== 404) throw error; // it is gone already
    });
    if (left) {
      this.actions.changed(left);
      report($("gallery-message"), `${card.name} is cancelled.`);
    } else {
      report($("gallery-message"), `${card.name} is deleted.`);
      await this.actions.removed(id);
    }
  }

  /** Cancel a card's job; one that has ended stays. */
  async #cancel(card) {
    const id = card.job.task_id;
    const job = await cancel(id).catch((error) => {
      if (error.status !== 404) throw error; // it is gone already
    });
    if (!job) return this.actions.removed(id);
    this.actions.changed(job);
    if (job.status === "cancelled" || !hasEnded(job)) report($("gallery-message"), `${card.name} is cancelled.`);
  }

  get #picked() {
    return this.cards.filter(({ box }) => box.checked);
  }

  #selecting(on) {
    $("selection").hidden = !on;
    $("gallery").classList.toggle("selecting", on);
    $("select").setAttribute("aria-pressed", String(on));
    $("select").textContent = on ? "Done" : "Select";
    for (const card of this.cards) card.box.checked = false;
    this.selected();
  }

  /** Another card was ticked, or one less. */
  selected() {
    const picked = this.#picked;
    const videos = picked.filter(({ job }) => job.status === "finished");
    $("selected").textContent = picked.length === 1 ? "1 selected" : `${picked.length} selected`;
    $("selected-compare").disabled = videos.length < 2 || videos.length < picked.length;
    $("selected-download").disabled = !videos.length;
    $("selected-delete").disabled = !picked.length;
  }

  async #download() {
    for (const card of this.#picked.filter(({ job }) => job.status === "finished")) {
      card.does.save();
      await pause(300); // browsers drop downloads that begin at the same moment
    }
  }

  /** Do `action(card)` with all of them; `what` names it. Deletion cancels those that have not ended. */
  async #each(cards, what, action = (card) => this.delete(card)) {
    let done = 0;
    try {
      for (const card of cards) {
        await action(card);
        done++;
      }
      if (done > 1) report($("gallery-message"), `${done} are ${what}.`);
    } catch (error) {
      report($("gallery-message"), `${done} of ${cards.length} are ${what}. ${fault(error)}`);
      this.actions.onError(error);
    }
  }

  /** The same for a whole group of the service's, with one request: `action(id)` resolves to what is left of it. */
  async #together(cards, what, action) {
    try {
      const left = await action(cards[0].group).catch((error) => {
        if (error.status !== 404) throw error; // it is gone already
      });
      for (const job of left?.jobs ?? []) if (this.#cards.has(job.task_id)) this.actions.changed(job);
      if (!left) for (const { job } of cards) await this.actions.removed(job.task_id);
      report($("gallery-message"), `${cards.length} are ${what}.`);
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    report($("gallery-message"), fault(error));
    this.actions.onError(error);
  }

  #count() {
    $("empty").hidden = this.#cards.size > 0;
    $("clear").hidden = this.#spent.length < 2;
    $("select").hidden = this.#cards.size < 2 && $("selection").hidden;
    this.selected();
  }
}
