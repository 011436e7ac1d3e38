// The state of the service, watched: a notice for each fault, and one only.

import { health, pause } from "./api.js";
import { notice } from "./notices.js";
import { duration } from "./words.js";

/** Watch the service's health for ever; `recovered()` is called whenever it is well again. */
export async function watchHealth({ recovered }) {
  for (let before = true; ; ) {
    const now = await health();
    const well = ["ok", "degraded"].includes(now.status) && now.artifacts !== false;
    notice("service", well ? null : lost(now), "bad");
    notice("pause", well && paused(now));
    notice("workers", well && workers(now));
    notice("weights", well && now.model?.trained === false && "This model has random weights, for tests: its videos are noise.");
    if (well && !before) recovered();
    before = well;
    await pause(well && now.workers_ready ? 20_000 : 3_000);
  }
}

function lost(now) {
  if (now.status === "unreachable") return "The service does not answer. Trying again …";
  const what = now.artifacts === false ? "its store of images and videos" : "its queue (Redis)";
  return `The service cannot reach ${what}. Nothing is lost; it goes on as soon as that is back.`;
}

/** Which pauses of operators are in force, and their reasons; null if there are none. */
function paused({ reasons = [], message = "" }) {
  if (!reasons.some((reason) => reason.endsWith("_paused"))) return null;
  const pauses = message.split("; ").filter((part) => part.includes("an operator has paused"));
  return pauses.map(sentence).join(" ") || "An operator has paused the service.";
}

/** What is missing for a job to start; null if nothing is. */
function workers({ reasons = [], workers_preparing: preparing = [], message }) {
  if (reasons.includes("model_not_served")) {
    return `No worker holds the service's model, so jobs wait. ${sentence(message)}`;
  }
  if (reasons.includes("model_loading")) return `${loading(preparing)} What you send waits until it is ready.`;
  if (!reasons.includes("no_worker_ready")) return null;
  return "No worker is running, so jobs wait. What you send starts once the operator has started one.";
}

function loading(preparing) {
  const [first] = [...preparing].sort((a, b) => a.since - b.since);
  if (!first) return "The worker is loading its model.";
  const since = Date.now() / 1000 - first.since;
  return `${preparing.length > 1 ? `${preparing.length} workers are` : "The worker is"} ${first.doing}, for ${duration(since)} now.`;
}

const sentence = (text = "") => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.?$/, ".");
