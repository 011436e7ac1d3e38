// The page's texts about jobs, times and faults.

export function duration(seconds) {
  if (seconds < 5) return "5 seconds";
  if (seconds < 60) return `${Math.round(seconds / 5) * 5} seconds`;
  if (seconds < 90) return "a minute";
  if (seconds < 3570) return `${Math.round(seconds / 60)} minutes`;
  const hours = Math.max(1, Math.round(seconds / 1800) / 2);
  return hours === 1 ? "an hour" : `${hours} hours`;
}

export function motion(value) {
  const words = ["very calm", "calm", "moderate", "lively", "very lively"];
  return words[Math.min(4, Math.floor((value / 256) * 5))];
}

export const length = (frames, fps) => `${(frames / fps).toFixed(1)} s · ${frames} frames`;

/** The length of a job's video. */
export const lasting = ({ duration_seconds: seconds, frames, segments }) =>
  `${seconds.toFixed(1)} s · ${frames} frames${segments > 1 ? ` · ${segments} segments` : ""}`;

/** What makes a video differ from its variations. */
export const values = ({ motion_bucket_id: motion, num_inference_steps: steps, seed }) =>
  `motion ${motion} · ${steps} steps · seed ${seed}`;

export function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

const left = (job) => (job.eta_seconds == null ? "" : ` · about ${duration(job.eta_seconds)} left`);
const readyIn = (job) => (job.eta_seconds == null ? "" : ` · ready in about ${duration(job.eta_seconds)}`);

/** The same without a time, for where it is not updated. */
export const phrase = (job) => standing({ ...job, eta_seconds: null });

/** One line about where a job stands. */
export function standing(job) {
  if (job.cancel_requested && job.status === "started") return "Stopping at the next step …";
  if (job.status === "queued") return queued(job) + readyIn(job);
  if (job.status === "started") return phase(job.progress) + left(job);
  return { finished: "Ready", failed: "This did not work", cancelled: "Cancelled", expired: "No longer kept" }[
    job.status
  ];
}

/** One line about where the videos of a group stand. */
export function standingTogether(jobs) {
  const count = (...states) => jobs.filter(({ status }) => states.includes(status)).length;
  const [ready, failed] = [count("finished"), count("failed")];
  const open = jobs.filter(({ status }) => status === "queued" || status === "started");
  const last = open.some(({ eta_seconds: eta }) => eta == null) ? null : Math.max(...open.map(({ eta_seconds: eta }) => eta));
  const others = failed ? ` · ${failed} failed` : "";
  return open.length ? `${ready} of ${jobs.length} ready${others}${left({ eta_seconds: last })}` : `${ready} ready${others}`;
}

/** Why a job waits once more, by the outcome of its last attempt. */
const ENDS = { lost: "Its worker was lost", released: "Its worker was shut down" };

function queued(job) {
  const again = job.attempt > 0 ? `${ENDS[job.attempts?.at(-1)?.outcome] ?? ENDS.lost}; starting again. ` : "";
  if (job.position == null) return `${again}Waiting`;
  return job.position === 1 ? `${again}Next in line` : `${again}Number ${job.position} in line`;
}

function phase(progress) {
  if (progress?.segments > 1) return `Segment ${progress.segment} of ${progress.segments}, ${within(progress).toLowerCase()}`;
  return within(progress);
}

function within(progress) {
  const of = progress?.steps ? ` ${Math.min(progress.step + 1, progress.steps)} of ${progress.steps}` : "";
  switch (progress?.phase) {
    case "sampling":
      return `Imagining: step${of}`;
    case "decoding":
      return `Drawing: frame${of}`;
    case "interpolating":
      return `Adding frames in between${of && `: frame${of}`}`;
    case "publishing":
      return "Almost there";
    default:
      return "Looking at the image";
  }
}

const startOf = (moment) => new Date(moment).setHours(0, 0, 0, 0);

export function keptUntil(moment) {
  const when = new Date(moment);
  const days = Math.round((startOf(when) - startOf(new Date())) / 86_400_000);
  const time = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const day = ["today", "tomorrow"][days] ?? when.toLocaleDateString([], { day: "numeric", month: "long" });
  return `${day}, ${time}`;
}

/** From so many milliseconds before its end on, a video's end is pointed out. */
const SOON = 2 * 3_600_000;

/** How long a job's video is kept: {text, soon}. */
export function expiry({ status, expires_at: until, pinned }) {
  if (status !== "finished") return { text: "", soon: false };
  if (pinned) return { text: "Kept until you delete it", soon: false };
  if (!until) return { text: "", soon: false };
  const left = Date.parse(until) - Date.now();
  if (left > SOON) return { text: `Kept until ${keptUntil(until)}`, soon: false };
  return { text: left > 0 ? `Deleted in ${duration(left / 1000)}: download it` : "Its time is over", soon: true };
}

const FAILED = {
  out_of_memory: "Decoding fewer frames at once helps, too.",
  time_limit: "Try fewer steps or fewer frames.",
  device_lost: "The machine behind the service is in trouble. Try again later.",
  worker_lost: "The machine behind the service may be in trouble. Try again later.",
};

/** What a person can do about a job that failed. */
export const advice = (code) => FAILED[code] ?? "Try again; if it fails again, try another image or other settings.";

/** What went wrong with a request, and what to do. */
export function fault(error) {
  const sentence = error.message.charAt(0).toUpperCase() + error.message.slice(1).replace(/\.?$/, ".");
  switch (error.status) {
    case 0:
      return "The service does not answer. Your images are still here: check the connection, then try again.";
    case 401:
    case 403:
      return "The service asks for a valid API key. Enter yours, then try again.";
    case 413:
      return `${sentence} Send a smaller image.`;
    case 415:
      return "The service cannot read this kind of file. Save it as JPEG or PNG, then try again.";
    case 429:
      return `${sentence} ${error.retryAfter ? `Try again in ${duration(error.retryAfter)}.` : "Try again later."}`;
    case 503:
      if (error.code === "paused") return `${sentence} Your images are still here: try again later.`;
      return "The service cannot reach its queue at the moment. Your images are still here: try again shortly.";
    default:
      return error.status >= 500 ? "The service made a mistake. Try again; its log has the details." : sentence;
  }
}
