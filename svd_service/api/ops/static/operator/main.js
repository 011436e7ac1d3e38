// The operators' page: asks /admin/… every few seconds, and shows tables, plots and the buttons of the acts.

import { $, element } from "../page/dom.js";
import { barPlot, linePlot } from "./plots.js";

const KEY = "svd-service.operator-key";
const EVERY = 5000;
const PER_HOUR = 6;

let key = sessionStorage.getItem(KEY) ?? "";
let timer = 0;

async function ask(method, path, form = null) {
  const body = form && new URLSearchParams(form);
  const answer = await fetch(path, { method, body, cache: "no-store", headers: { Authorization: `Bearer ${key}` } });
  const found = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error.message), { status: answer.status });
  return found;
}

// Words

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
const gigabytes = (bytes) => (bytes / 2 ** 30).toFixed(1);
const moment = (value) => new Date(value).toLocaleString();
const number = (value) => ({ text: value, number: true });

// Tables

function cell(name, content) {
  if (content instanceof Node) return element(name, {}, content);
  if (content?.number) return element(name, { class: "number" }, String(content.text));
  return element(name, {}, String(content ?? ""));
}

/** Fill a table. The focus stays on the button that has it, also when the table is made anew. */
function fill(id, heads, rows, none) {
  const focused = $(id).contains(document.activeElement) ? document.activeElement.dataset.act : null;
  if (!rows.length) {
    $(id).replaceChildren(element("caption", {}, none));
    return;
  }
  const head = element("tr", {}, ...heads.map((each) => {
    const made = cell("th", each);
    made.scope = "col";
    return made;
  }));
  $(id).replaceChildren(
    element("thead", {}, head),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((each) => cell("td", each))))),
  );
  if (focused) [...$(id).querySelectorAll("button")].find((each) => each.dataset.act === focused)?.focus();
}

function button(words, label, method, path, form) {
  const made = element("button", { type: "button", "aria-label": label, on: { click: () => act(label, method, path, form) } }, words);
  made.dataset.act = label;
  return made;
}

async function act(label, method, path, form) {
  try {
    await ask(method, path, form);
    $("announcer").textContent = `Done: ${label}`;
    await refresh();
  } catch (error) {
    complain(error);
  }
}

// The parts of the page

function showPauses(paused) {
  const items = paused.map(({ what, model, since, by, reason }) => {
    const words = `The ${what} of ${model || "all models"} is paused since ${moment(since)} by ${by}${reason ? `: ${reason}` : ""}`;
    const label = `Resume the ${what} of ${model || "all models"}`;
    return element("li", {}, element("strong", {}, words), button("Resume", label, "POST", "admin/resume", { what, model }));
  });
  $("pauses").replaceChildren(...(items.length ? items : [element("li", {}, "Jobs are accepted and started.")]));
}

function showOverview({ queues, queued_by_key: keys, failures, history, paused }) {
  showPauses(paused);
  fill("queues", ["Model", "Profile", number("Jobs"), number("Oldest"), number("Wait")],
    queues.map(({ model, profile, length, oldest, wait }) =>
      [model, profile, number(length), number(duration(oldest)), number(wait === null ? "–" : duration(wait))]),
    "There has been no job yet.");
  fill("keys", ["Key", number("Queued jobs")],
    Object.entries(keys).map(([name, jobs]) => [name || "(no key)", number(jobs)]), "No job is queued.");
  fill("failures", ["Cause", number("Jobs")],
    Object.entries(failures).map(([cause, jobs]) => [cause, number(jobs)]), "No job has failed.");
  const ages = history.map(({ begin, queue_age: age }) => ({ at: new Date(begin), value: age ?? 0 }));
  $("plot-age").replaceChildren(linePlot("Age of the oldest queued job", ages, duration));
  const hours = [];
  for (let start = 0; start < history.length; start += PER_HOUR) {
    const periods = history.slice(start, start + PER_HOUR);
    hours.push({ at: new Date(periods[0].begin), value: periods.reduce((sum, { finished }) => sum + finished, 0) });
  }
  $("plot-videos").replaceChildren(barPlot("Videos per hour", hours, String));
}

function workerActs({ worker, state }) {
  if (state === "drain" || state === "quarantine") {
    return element("span", {}, button("Release", `Release ${worker}`, "POST", "admin/release", { worker }));
  }
  return element("span", {},
    button("Drain", `Drain ${worker}`, "POST", "admin/drain", { worker }),
    button("Quarantine", `Quarantine ${worker}`, "POST", "admin/quarantine", { worker }));
}

function showWorkers({ workers }) {
  const rows = workers.map((each) => {
    const memory = each.memory_size ? `${gigabytes(each.memory_used)} of ${gigabytes(each.memory_size)} GiB` : each.memory;
    const job = each.job ? `${each.job.slice(0, 8)} ${each.progress === null ? "" : `${Math.round(100 * each.progress)} %`}` : "";
    const step = each.step_seconds ? `${each.step_seconds.toFixed(2)} s` : "";
    const state = each.reason ? `${each.state}: ${each.reason}` : each.state;
    return [each.worker, state, each.device, memory, each.model, job, number(step), workerActs(each)];
  });
  fill("workers", ["Worker", "State", "Device", "Memory", "Model", "Job", number("Step"), "Acts"], rows, "There is no worker.");
}

function jobActs(job) {
  const id = job.task_id;
  if (job.status === "failed") return button("Retry", `Retry ${id}`, "POST", `admin/jobs/${id}/retry`);
  if (job.status === "queued" || job.status === "started") return button("Cancel", `Cancel ${id}`, "POST", `admin/jobs/${id}/cancel`);
  return "";
}

function showJobs({ jobs }) {
  fill("jobs", ["Job", "Key", "Submitted", "State", "Model", "Acts"],
    jobs.map(({ key: owner, job }) =>
      [job.task_id, owner || "(no key)", moment(job.created_at), job.error ? `${job.status}: ${job.error.code}` : job.status, job.model.name, jobActs(job)]),
    "There is no such job.");
}

function showActs({ acts }) {
  fill("acts", ["When", "Who", "What", "Target", "Reason"],
    acts.slice(0, 20).map(({ at, by, what, target, reason }) => [moment(1000 * at), by, what, target, reason]),
    "There is none yet.");
}

// The page

function complain(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
  if (error?.status === 401 || error?.status === 403) signOut();
}

function jobsPath() {
  const query = new URLSearchParams({ limit: 20, state: $("filter-state").value, key: $("filter-key").value.trim() });
  return `admin/jobs?${query}`;
}

async function refresh() {
  clearTimeout(timer);
  try {
    const paths = ["admin/overview", "admin/workers", jobsPath(), "admin/audit"];
    const found = await Promise.all(paths.map((path) => ask("GET", path)));
    [showOverview, showWorkers, showJobs, showActs].forEach((show, index) => show(found[index]));
    complain(null);
    showView(true);
  } catch (error) {
    complain(error);
  }
  if (key) timer = setTimeout(refresh, EVERY);
}

function showView(shown) {
  $("view").hidden = !shown;
  $("sign-in").hidden = shown;
  $("sign-out").hidden = !shown;
}

function signOut() {
  key = "";
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  showView(false);
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  sessionStorage.setItem(KEY, key);
  refresh();
});
$("sign-out").addEventListener("click", signOut);
$("pause").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = { what: event.submitter.value, model: $("pause-model").value.trim(), reason: $("pause-reason").value.trim() };
  act(`Pause the ${form.what}`, "POST", "admin/pause", form);
});
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("change", refresh);
if (key) refresh();
