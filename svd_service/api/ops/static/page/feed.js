// The status of jobs: pushed by the service if possible, else polled.

import { ApiError, ask, group, pause, status } from "./api.js";

/** Milliseconds between two questions: alone, and beside a stream (which does not tell places in the queue). */
const ALONE = 1_000;
const BESIDE_STREAM = 5_000;

/** Milliseconds until a rejected stream is requested again. */
const RETRY_STREAM = 30_000;

/**
 * Watches jobs until they have ended. `changed(job)`, `gone(id)`, `reached(error)` with null when all is well, and `locked()`
 * when the service wants a key, or another one: nothing is requested then until `clear`.
 */
export class Feed {
  #open = new Map();
  #polling = false;
  #stream = null;
  #streaming = false;
  #pushes = true;
  #locked = false;

  constructor(listeners) {
    Object.assign(this, listeners);
  }

  /** Watch a job from now on. Those of a group are requested together. */
  watch({ task_id: id, group_id: groupId }) {
    this.#open.set(id, groupId);
    if (!this.#polling) this.#poll();
    if (!this.#stream) this.#listen();
  }

  /** Stop watching: the job ended, or is no longer shown. */
  forget(id) {
    this.#open.delete(id);
    if (!this.#open.size) this.#stream?.abort();
  }

  /** Forget everything: another key is in use. */
  clear() {
    for (const id of [...this.#open.keys()]) this.forget(id);
    this.#pushes = true;
    this.#locked = false;
  }

  async #poll() {
    this.#polling = true;
    while (this.#open.size && !this.#locked) {
      const requests = new Map();
      for (const [id, groupId] of this.#open) requests.set(groupId ?? id, [...(requests.get(groupId ?? id) ?? []), id]);
      await Promise.all([...requests].map(([id, members]) => this.#look(id, members)));
      const crowd = Math.max(1, requests.size / 3);
      await pause(this.#streaming ? BESIDE_STREAM : ALONE * crowd);
    }
    this.#polling = false;
  }

  /** Request a job, or the group that has these `members`. */
  async #look(id, members) {
    try {
      const jobs = members[0] === id ? [await status(id)] : (await group(id)).jobs;
      this.#take(members, new Map(jobs.map((job) => [job.task_id, job])));
      this.reached(null);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) this.#lock();
      else if (error.status === 404) this.#take(members, new Map());
      else this.reached(error);
    }
  }

  #take(members, found) {
    for (const id of members.filter((member) => this.#open.has(member))) {
      if (found.has(id)) this.changed(found.get(id));
      else this.gone(id);
    }
  }

  #lock() {
    this.reached(null); // it does answer
    if (this.#locked) return;
    this.#locked = true;
    this.locked();
  }

  async #listen() {
    const stream = new AbortController();
    this.#stream = stream;
    while (this.#open.size && this.#pushes) {
      let wait = RETRY_STREAM;
      try {
        const response = await ask("events", { headers: { Accept: "text/event-stream" }, signal: stream.signal });
        this.#streaming = true;
        for await (const event of events(response.body)) this.#hear(event);
        wait = 2_000; // the service closed it: it restarts, perhaps
      } catch (error) {
        if ([401, 404, 405].includes(error.status)) this.#pushes = false;
      }
      this.#streaming = false;
      if (stream.signal.aborted) break;
      await pause(wait);
    }
    if (this.#stream === stream) this.#stream = null;
    if (this.#open.size && this.#pushes && stream.signal.aborted) this.#listen();
  }

  #hear({ type, data }) {
    const job = JSON.parse(data);
    if (!this.#open.has(job.task_id)) return;
    if (type === "deleted") this.gone(job.task_id);
    else this.changed(job);
  }
}

/** The server-sent events in a body. EventSource would do this, but cannot show a key. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { type: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("data:")) event.data += line.slice(5).trim();
        else if (line.startsWith("event:")) event.type = line.slice(6).trim();
      }
      if (event.data) yield event;
    }
  }
}
