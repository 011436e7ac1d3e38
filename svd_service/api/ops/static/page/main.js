// The page: puts the composer, the gallery and the feed together, and says how the service is.

import { ApiError, currentKey, health, jobs, models, pause, status, useKey } from "./api.js";
import { Composer } from "./composer.js";
import { $, element } from "./dom.js";
import { Feed } from "./feed.js";
import { Gallery, hasEnded } from "./gallery.js";
import * as store from "./store.js";

/** Jobs that are shown at first, and with every "Show older videos". */
const PAGE = 24;

const feed = new Feed({
  changed: (job) => changed(job),
  gone: (id) => removed(id),
  reached: (error) => notice("connection", error && "The connection is lost. Trying again …", "bad"),
});

const gallery = new Gallery({ changed, removed, refused, again, change });

const composer = new Composer({
  refused,
  async submitted(job, record) {
    await store.keep(record);
    const card = gallery.show(job, record);
    if (!hasEnded(job)) feed.watch(job.task_id);
    card.article.focus({ preventScroll: true });
    card.item.scrollIntoView({ block: "nearest" });
  },
});

function changed(job) {
  gallery.show(job);
  if (hasEnded(job)) feed.forget(job.task_id);
}

async function removed(id) {
  feed.forget(id);
  gallery.drop(id);
  await store.forget(id);
}

function refused(error) {
  if (error.status === 401) openKeyDialog();
}

/** The same picture and settings with another seed, or with the same where `seed` is that of the job. */
async function again(record, job, seed) {
  const { width, height, fit, ...settings } = job.parameters;
  const model = job.model.name;
  await composer.send({ ...record, fields: { width, height, fit } }, { ...settings, model, seed });
}

function change(record, job) {
  const file = new File([record.picture], record.name, { type: record.picture.type });
  composer.add([file], { ...record.draft, name: record.name, settings: { ...job.parameters, model: job.model.name } });
}

// The jobs of earlier visits

let older = async () => {};

async function load() {
  feed.clear();
  gallery.clear();
  const records = await store.all();
  older = currentKey() ? keysJobs(records) : browsersJobs(records);
  await older();
}

/** With a key: the key's jobs, wherever they were submitted. */
function keysJobs(records) {
  const known = new Map(records.map((record) => [record.id, record]));
  let last = null;
  return async () => {
    try {
      const page = await jobs(last);
      for (const job of page.jobs) restore(job, known.get(job.task_id));
      last = page.jobs.at(-1)?.task_id;
      $("older").hidden = !page.has_more;
    } catch (error) {
      if (error.status === 401) askForKey();
      else if (error.status === 404) await (older = browsersJobs(records))();
      else throw error;
    }
  };
}

/** Without one: what this browser submitted. */
function browsersJobs(records) {
  const waiting = [...records];
  return async () => {
    const page = waiting.splice(0, PAGE);
    const found = await Promise.all(page.map((record) => find(record)));
    page.forEach((record, place) => found[place] && restore(found[place], record));
    $("older").hidden = !waiting.length;
  };
}

async function find({ id }) {
  try {
    return await status(id);
  } catch (error) {
    if (error.status === 401) askForKey();
    // Under a key an unknown job may be another key's.
    if (error.status === 404 && !currentKey()) await store.forget(id);
    return null;
  }
}

function restore(job, record) {
  gallery.show(job, record, { first: false });
  if (!hasEnded(job)) feed.watch(job.task_id);
}

// How the service is

const notices = new Map();

/** Show a notice under a name, or take it away where there is no text. */
function notice(name, text, kind = "", action = null) {
  if (notices.get(name)?.text === (text || undefined)) return;
  notices.get(name)?.shown.remove();
  notices.delete(name);
  if (text) {
    const shown = element("p", { class: `notice ${kind}`, role: "status" }, text, action);
    notices.set(name, { text, shown });
    $("notices").append(shown);
  }
  $("notices").hidden = notices.size === 0;
}

async function watchHealth() {
  for (;;) {
    const now = await health();
    const well = ["ok", "degraded"].includes(now.status) && now.artifacts !== false;
    const lost =
      now.status === "unreachable"
        ? "The service does not answer. Trying again …"
        : now.artifacts === false
        ? "The service cannot reach its store of pictures and videos. Nothing is lost; it goes on as soon as that is back."
        : "The service cannot reach its queue (Redis). Nothing is lost; it goes on as soon as the queue is back.";
    notice("service", !well && lost, "bad");
    const idle = !now.workers?.some(({ model }) => model === now.model?.name);
    notice("workers", well && idle && "No worker is ready yet. What you send waits until one is.");
    notice(
      "weights",
      well && now.model?.trained === false && "This model has random weights, for tests: its videos are noise.",
    );
    await pause(well && now.workers_ready ? 20_000 : 3_000);
  }
}

async function loadModel() {
  for (;;) {
    try {
      const all = await models();
      composer.offer(all);
      $("about").textContent = [`Model: ${all[0].name}`, all[0].description].filter(Boolean).join(" · ");
      return;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) {
        askForKey();
        return;
      }
      await pause(3_000);
    }
  }
}

// The key

function askForKey() {
  const text = currentKey() ? "The service does not accept this API key. " : "This service asks for an API key. ";
  const enter = element("button", { type: "button", on: { click: openKeyDialog } }, "Enter a key");
  notice("key", text, "", enter);
}

function openKeyDialog() {
  if ($("key-dialog").open) return;
  $("key").value = currentKey();
  $("key-forget").hidden = !currentKey();
  $("key-dialog").returnValue = ""; // what Esc leaves as it is
  $("key-dialog").showModal();
}

$("key-open").addEventListener("click", openKeyDialog);
$("key-dialog").addEventListener("close", async () => {
  const { returnValue } = $("key-dialog");
  if (returnValue === "save") useKey($("key").value.trim());
  else if (returnValue === "forget") useKey("");
  else return;
  await start();
});
$("older").addEventListener("click", () => older());

async function start() {
  notice("key", null);
  $("key-open").textContent = currentKey() ? "API key ✓" : "API key";
  await loadModel();
  await load();
}

document.documentElement.classList.toggle("touch", navigator.maxTouchPoints > 0);
watchHealth();
start();
