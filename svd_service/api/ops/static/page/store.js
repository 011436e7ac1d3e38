// What this browser remembers of its jobs: the picture as it was sent, a thumbnail, the settings. In IndexedDB, which
// takes pictures; where a browser keeps nothing, in memory until the page is left.

const fallback = new Map();
let opening = null;

function open() {
  opening ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open("svd-service", 2);
      request.onupgradeneeded = ({ oldVersion }) => {
        if (oldVersion < 1) request.result.createObjectStore("jobs", { keyPath: "id" });
        if (oldVersion < 2) request.result.createObjectStore("originals", { keyPath: "id" });
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opening;
}

async function run(mode, action, name = "jobs") {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(name, mode);
    const request = action(transaction.objectStore(name));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** `record`: {id, created, picture, thumbnail, draft, fields, original, group}; `original` is the id of `keepOriginal`. */
export async function keep(record) {
  fallback.set(record.id, record);
  await run("readwrite", (store) => store.put(record)).catch(() => {}); // a full disk: memory has it
}

export async function forget(id) {
  const records = await all();
  const original = records.find((record) => record.id === id)?.original;
  fallback.delete(id);
  await run("readwrite", (store) => store.delete(id)).catch(() => {});
  // One original serves all variations.
  if (!original || records.some((record) => record.id !== id && record.original === original)) return;
  originals.delete(original);
  await run("readwrite", (store) => store.delete(original), "originals").catch(() => {});
}

const originals = new Map();

/** Keep the file that a person added, whole, for all jobs that are made of it. */
export async function keepOriginal(id, file) {
  originals.set(id, file);
  await run("readwrite", (store) => store.put({ id, file }), "originals").catch(() => {});
}

/** The file that was kept under this id; undefined where the browser no longer has it. */
export async function original(id) {
  if (originals.has(id)) return originals.get(id);
  return (await run("readonly", (store) => store.get(id), "originals").catch(() => null))?.file;
}

/** All records, newest first. */
export async function all() {
  const kept = (await run("readonly", (store) => store.getAll()).catch(() => [])) ?? [];
  const records = new Map([...kept.map((record) => [record.id, record]), ...fallback]);
  return [...records.values()].sort((a, b) => b.created - a.created);
}
