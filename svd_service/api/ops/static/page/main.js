// The page: puts the composer, the gallery and the feed together, and shows the service's state.

import { ApiError, checkKey, currentKey, jobs, models, pause, status } from "./api.js";
import { Attention } from "./attention.js";
import { hasEnded } from "./card.js";
import { Compare } from "./compare.js";
import { Composer } from "./composer.js";
import { $ } from "./dom.js";
import { Feed } from "./feed.js";
import { Gallery } from "./gallery.js";
import { Keys } from "./keys.js";
import { watchHealth } from "./service.js";
import { fieldsOf, ofJob } from "./settings.js";
import * as store from "./store.js";

/** Jobs that are shown at first, and with every "Show older videos". */
const PAGE = 24;

const feed = new Feed({
  changed: (job) => changed(job),
  gone: (id) => removed(id),
  reached(error) {
    // The health check has the reason; a remaining time that no longer changes would only mislead.
    if (error) gallery.stall("Waiting for the service …");
  },
  locked() {
    keys.required();
    gallery.stall("Enter an API key to see how this goes on.");
  },
});

const keys = new Keys({ changed: () => start() });

const compare = new Compare({ use: change });
const gallery = new Gallery({ changed, removed, onError, again, change, compare: (cards) => compare.open(cards) });

const attention = new Attention(() => gallery.cards);

const composer = new Composer({
  onError,
  drafts: store.drafts,
  async submitted(job, record) {
    await store.keep(record);
    const card = gallery.show(job, record);
    attention.update();
    if (!hasEnded(job)) feed.watch(job);
    card.article.focus({ preventScroll: true });
    card.item.scrollIntoView({ block: "nearest" });
  },
});

function changed(job) {
  gallery.show(job);
  attention.update();
  if (hasEnded(job)) feed.forget(job.task_id);
}

async function removed(id) {
  feed.forget(id);
  gallery.drop(id);
  attention.update();
  await store.forget(id);
}

function onError(error) {
  if (error.status !== 401) return;
  keys.required();
  keys.open();
}

/** The same image and settings with another seed, or with the same where `seed` is that of the job. */
async function again(record, job, seed) {
  const { width, height, fit, ...settings } = fieldsOf(job.parameters);
  const model = job.model.name;
  await composer.send({ ...record, group: null, together: 1, fields: { width, height, fit } }, { ...settings, model, seed });
}

async function change(record, job) {
  // The whole file with its crop, else what was sent.
  const original = record.original && (await store.original(record.original));
  const kept = original ?? record.sent;
  const file = new File([kept], record.name, { type: kept.type });
  const draft = original ? { ...record.draft, original: record.original } : { ...record.draft, place: undefined, turn: 0 };
  const { shape = record.draft?.shape, settings } = ofJob({ ...job.parameters, model: job.model.name });
  await composer.add([file], { ...draft, shape, settings, name: record.name });
}

// The jobs of earlier visits

let older = async () => {};

async function load() {
  feed.clear();
  gallery.clear();
  const records = await store.all();
  older = currentKey() || (await listsJobs()) ? keysJobs(records) : browsersJobs(records);
  await older();
}

/** Whether a service without keys shows all its jobs, as its operator decides. */
async function listsJobs() {
  try {
    return (await checkKey("")).lists_jobs;
  } catch {
    return false; // it requires a key, or is away
  }
}

/** The caller's jobs, wherever they were submitted. */
function keysJobs(records) {
  const known = new Map(records.map((record) => [record.id, record]));
  const read = [];
  return async () => {
    try {
      const page = await pageBehind(read);
      for (const job of page.jobs) restore(job, known.get(job.task_id));
      read.push(...page.jobs.map((job) => job.task_id));
      $("older").hidden = !page.has_more;
    } catch (error) {
      if (error.status === 401) keys.required();
      else if (error.status === 404) await (older = browsersJobs(records))();
      else throw error;
    }
  };
}

/** The page behind the last of the jobs with the ids `read` that still exists; the others are removed. */
async function pageBehind(read) {
  for (;;) {
    try {
      return await jobs(read.at(-1) ?? null);
    } catch (error) {
      if (error.status !== 404 || !read.length) throw error;
      read.pop();
    }
  }
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
    if (error.status === 401) keys.required();
    // Under a key an unknown job may be another key's.
    if (error.status === 404 && !currentKey()) await store.forget(id);
    return null;
  }
}

function restore(job, record) {
  gallery.show(job, record, { first: false });
  if (!hasEnded(job)) feed.watch(job);
}

/** A video's time may be over while the page is open: then its card shows it. */
async function watchExpiry() {
  for (;;) {
    await pause(15_000);
    gallery.tick();
    for (const id of gallery.overdue) await status(id).then(changed, () => {});
  }
}

// The service

/** Offer the models; false where a key is missing. */
async function loadModel() {
  for (;;) {
    try {
      const { models: all, limits } = await models();
      composer.offer(all, limits);
      const notices = [...new Set(all.map((model) => model.license?.notice))];
      $("about").textContent = [`Model: ${all[0].name}`, all[0].description, ...notices].filter(Boolean).join(" · ");
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) {
        keys.required();
        return false;
      }
      await pause(3_000);
    }
  }
}

$("older").addEventListener("click", () => older());
$("example-play").addEventListener("click", playExample);

/** Play the example, or stop it. */
function playExample() {
  const video = $("example-video");
  if (video.paused) video.play().catch(() => {});
  else video.pause();
}

for (const event of ["play", "pause"]) {
  $("example-video").addEventListener(event, ({ target }) => ($("example-play").textContent = target.paused ? "Play" : "Pause"));
}

async function start() {
  composer.clearFault();
  if (await loadModel()) keys.accepted();
  await load();
}

document.documentElement.classList.toggle("touch", navigator.maxTouchPoints > 0);
// Users whose system prefers reduced motion start it themselves.
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) playExample();
$("more").open = matchMedia("(min-width: 90rem)").matches;
watchHealth({ recovered: () => composer.clearFault({ passing: true }) });
watchExpiry();
composer.restore();
start();
