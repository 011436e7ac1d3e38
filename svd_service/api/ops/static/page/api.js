// The service's HTTP API, as the page uses it. With a key, every request carries it.

import { upload } from "./upload.js";

const KEY = "svd-service.key";

/** A request that the service rejected or could not serve. `status` is 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(status, code, message, { parameter = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, parameter, retryAfter });
  }
}

let key = remembered();

function remembered() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

export const currentKey = () => key;

export function useKey(value) {
  key = value;
  try {
    if (value) localStorage.setItem(KEY, value);
    else localStorage.removeItem(KEY);
  } catch {
    // It is used until the page is left, then.
  }
}

/** A response that is `ok`; raises ApiError for any other. */
export async function ask(path, options = {}, as = key) {
  return answered(fetch(path, { ...options, headers: withKey(options.headers, as), cache: "no-store" }));
}

const withKey = (headers, as = key) => ({ ...headers, ...(as && { Authorization: `Bearer ${as}` }) });

async function answered(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The service does not answer.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const { code = `http_${response.status}`, message = response.statusText, parameter } = body.error ?? {};
  throw new ApiError(response.status, code, message, {
    parameter,
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

const json = async (path, options) => (await ask(path, options)).json();

/** Whether the service accepts a key: {required, name, …}; raises ApiError with 401 where it does not. */
export const checkKey = async (candidate) => (await ask("key", {}, candidate)).json();

/** A link to a video that works without the key: {url, expires_at}. */
export const share = (id) => json(`jobs/${id}/share`, { method: "POST" });

/** Keep a video beyond its time, or no longer; the job as it then is. */
export const pin = (id, on) => json(`jobs/${id}/pin`, { method: on ? "PUT" : "DELETE" });

/** {models, limits} */
export const models = () => json("models");
export const status = (id) => json(`status/${id}`);
export const jobs = (after) => json(`jobs?limit=50${after ? `&after=${after}` : ""}`);
export const fileUrl = (id, format = "mp4") => `results/${id}.${format}`;
export const file = async (id, format) => (await ask(fileUrl(id, format))).blob();

/** A preview of a video that is being made; null where there is none (any more). */
export async function preview(id) {
  try {
    return await (await ask(`jobs/${id}/preview`)).blob();
  } catch (error) {
    if (error instanceof ApiError) return null;
    throw error;
  }
}

/** The health of the service, also of one that is down but still answers. */
export async function health() {
  try {
    return await (await fetch("health", { cache: "no-store" })).json();
  } catch {
    return { status: "unreachable", workers_ready: 0, workers: [] };
  }
}

/** Cancel a job; the job as it then is. One that has ended stays. */
export const cancel = (id) => json(`jobs/${id}/cancel`, { method: "POST" });

/** Cancels a job or deletes one that has ended: the job as it then is, or null where it is gone. */
export async function remove(id) {
  const response = await ask(`jobs/${id}`, { method: "DELETE" });
  return response.status === 204 ? null : response.json();
}

/** A group of jobs, submitted together: {group_id, status, jobs, …}. */
export const group = (id) => json(`groups/${id}`);

/** Cancel the jobs of a group that have not ended; the group as it then is. */
export const cancelGroup = (id) => json(`groups/${id}/cancel`, { method: "POST" });

/** Cancel the jobs of a group, or delete it with its videos if all have ended: the group as it then is, or null. */
export async function removeGroup(id) {
  const response = await ask(`groups/${id}`, { method: "DELETE" });
  return response.status === 204 ? null : response.json();
}

/** Where the thumbnails of a group's videos are, side by side. */
export const sheetUrl = (id) => `groups/${id}/contact-sheet`;
export const sheet = async (id) => (await ask(sheetUrl(id))).blob();

/**
 * Submit an image. A request without a response is repeated under the same Idempotency-Key, so that it never becomes two
 * jobs. `progress(share)` follows the upload; raises AbortError once `signal` is aborted. The answer is a job, from "groups" a
 * group.
 */
export async function generate(image, fields, { path = "generate", signal, progress = () => {} } = {}) {
  const headers = withKey({ "Idempotency-Key": randomWord() });
  const form = new FormData();
  form.append("image", image, image.name || "image");
  for (const [name, value] of Object.entries(fields)) if (value !== undefined && String(value)) form.append(name, value);
  for (let attempt = 1; ; attempt++) {
    try {
      return await (await answered(upload(path, form, headers, { signal, progress }))).json();
    } catch (error) {
      // A pause by an operator may last for hours.
      if (attempt === 3 || error.code === "paused" || ![0, 502, 503, 504].includes(error.status)) throw error;
      await pause(1000 * (error.retryAfter ?? attempt));
    }
  }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** crypto.randomUUID is missing where a page is served without TLS; this is not. */
export function randomWord() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16).padStart(8, "0")).join("");
}

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
