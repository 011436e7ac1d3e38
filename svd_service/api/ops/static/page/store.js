// What this browser remembers of its jobs: the picture as it was sent, a thumbnail, the settings. In IndexedDB, which
// takes pictures; where a browser keeps nothing, in memory until the page is left.

const fallback = new Map();
let opening = null;

function open() {
  opening ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open("svd-service", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("jobs", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opening;
}

async function run(mode, action) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction("jobs", mode);
    const request = action(transaction.objectStore("jobs"));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** `record`: {id, created, picture, thumbnail, settings, shape, pad}. */
export async function keep(record) {
  fallback.set(record.id, record);
  await run("readwrite", (store) => store.put(record)).catch(() => {}); // a full disk: memory has it
}

export async function forget(id) {
  fallback.delete(id);
  await run("readwrite", (store) => store.delete(id)).catch(() => {});
}

/** All records, newest first. */
export async function all() {
  const kept = (await run("readonly", (store) => store.getAll()).catch(() => [])) ?? [];
  const records = new Map([...kept.map((record) => [record.id, record]), ...fallback]);
  return [...records.values()].sort((a, b) => b.created - a.created);
}
