// What this browser remembers: of its jobs the image as it was sent, a thumbnail and the settings; of the images that wait,
// their drafts; and the files of both, whole. In IndexedDB; where a browser keeps nothing, in memory until the page is left.

const KINDS = ["jobs", "originals", "drafts"];
const memory = Object.fromEntries(KINDS.map((kind) => [kind, new Map()]));
let opening = null;

function open() {
  opening ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open("svd-service", KINDS.length);
      request.onupgradeneeded = ({ oldVersion }) => {
        for (const kind of KINDS.slice(oldVersion)) request.result.createObjectStore(kind, { keyPath: "id" });
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opening;
}

async function run(kind, mode, action) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(kind, mode);
    const request = action(transaction.objectStore(kind));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

async function put(kind, record) {
  memory[kind].set(record.id, record);
  await run(kind, "readwrite", (store) => store.put(record)).catch(() => {}); // a full disk: memory has it
}

async function remove(kind, id) {
  memory[kind].delete(id);
  await run(kind, "readwrite", (store) => store.delete(id)).catch(() => {});
}

async function everything(kind) {
  const kept = (await run(kind, "readonly", (store) => store.getAll()).catch(() => [])) ?? [];
  return [...new Map([...kept.map((record) => [record.id, record]), ...memory[kind]]).values()];
}

/** `record`: {id, created, sent, thumbnail, draft, fields, original, group}; `original` is the id of its file. */
export const keep = (record) => put("jobs", record);

export async function forget(id) {
  const { original } = (await all()).find((record) => record.id === id) ?? {};
  await remove("jobs", id);
  if (original) await tidy(original);
}

/** All records of jobs, newest first. */
export async function all() {
  const records = (await everything("jobs")).map(({ picture: sent, ...record }) => ({ sent, ...record })); // its old name
  return records.sort((a, b) => b.created - a.created);
}

/** The file that was kept under this id; undefined where the browser no longer has it. */
export async function original(id) {
  return (memory.originals.get(id) ?? (await run("originals", "readonly", (store) => store.get(id)).catch(() => null)))?.file;
}

/** Delete a file that neither a job nor a draft was made of. */
async function tidy(id) {
  const [jobs, waiting] = await Promise.all([everything("jobs"), everything("drafts")]);
  const used = jobs.some((job) => job.original === id) || waiting.some((draft) => draft.id === id);
  if (!used) await remove("originals", id);
}

/** The images that are not sent yet, by the id of their file. */
export const drafts = {
  add: (id, file) => put("originals", { id, file }),

  async keep(list) {
    await Promise.all(list.map((draft, place) => put("drafts", { ...draft, id: draft.original, order: place })));
    const ids = new Set(list.map(({ original: id }) => id));
    for (const { id } of await everything("drafts")) if (!ids.has(id)) await remove("drafts", id);
  },

  async drop(id) {
    await remove("drafts", id);
    await tidy(id);
  },

  /** With their files, in their order. */
  async all() {
    const found = [];
    for (const draft of (await everything("drafts")).sort((a, b) => a.order - b.order)) {
      const file = await original(draft.original);
      if (file) found.push({ ...draft, file });
    }
    return found;
  },
};
