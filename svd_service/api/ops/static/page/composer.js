// Where a video begins: the images that were added, the part of each that is used, the settings, and sending them.

import { generate, randomSeed, randomWord } from "./api.js";
import { Frame, MIDDLE, cut, thumbnail } from "./crop.js";
import { $, announce, element, report } from "./dom.js";
import { addTile, draft, isOfTheImage, kept, tile, turned, warning } from "./drafts.js";
import { chosen } from "./fields.js";
import { Rejected } from "./intake.js";
import { settingsIn } from "./metadata.js";
import { Settings, fields, ofJob } from "./settings.js";
import { fileSize, sizeFault, sizeFields } from "./sizes.js";
import { motions } from "./variations.js";
import * as ways from "./ways_in.js";
import { fault } from "./words.js";

/** Faults that are over once the service answers again. */
const PASSING = new Set([0, 502, 503, 504]);

/**
 * Calls `submitted(job, record)` for every job and `onError(error)` for every error. `drafts` keeps what is not sent yet:
 * {add(id, file), keep(drafts), drop(id), all()}.
 */
export class Composer {
  #drafts = [];
  #current = null;
  #shared = {};
  #sending = null;
  #passing = false;
  #saving = 0;
  #turning = Promise.resolve();
  #reading = Promise.resolve();

  constructor({ submitted, onError, drafts }) {
    Object.assign(this, { submitted, onError, kept: drafts });
    this.settings = new Settings({ changed: () => this.#changed() });
    this.frame = new Frame($("crop"), ({ zoom }) => {
      $("zoom").value = zoom;
      this.#edited();
      this.#warn();
    });
    this.#listen();
  }

  /** Let the caller choose among the models, the service's own first. */
  offer(models, limits) {
    const again = this.settings.offered;
    this.settings.offer(models, limits);
    if (again) this.settings.set(this.#shared);
    else this.#shared = this.settings.values();
    this.#select(this.#current);
  }

  /** Bring back the drafts of the last visit. */
  async restore() {
    for (const { file, ...preset } of await this.kept.all()) {
      try {
        const one = await draft(file, preset);
        if (!this.#drafts.some(({ original }) => original === one.original)) this.#drafts.push(one);
      } catch (error) {
        if (!(error instanceof Rejected)) throw error;
      }
    }
    if (this.#drafts.length && !this.#current) this.#select(this.#drafts[0]);
  }

  /**
   * Add files; `preset` is {settings, shape, pad, place, turn, original} of an earlier job. What is not an image is named with
   * the reason. Files that are added while others are read come after them.
   */
  add(files, preset = {}) {
    const list = [...files]; // a drop's list is emptied when its event is over
    const added = this.#reading.then(() => this.#read(list, preset));
    this.#reading = added.catch(() => {});
    return added;
  }

  async #read(files, preset) {
    const [drafts, rejected] = [[], []];
    $("composer").setAttribute("aria-busy", "true");
    try {
      for (const file of files) {
        try {
          const settings = /\.(mp4|webm)$/i.test(file.name) ? await settingsIn(file) : null;
          if (settings) this.#restore(file.name, settings);
          else drafts.push(await draft(file, preset));
        } catch (error) {
          if (!(error instanceof Rejected)) throw error;
          rejected.push([file.name || "Pasted file", error.message]);
        }
      }
    } finally {
      $("composer").removeAttribute("aria-busy");
      this.#reject(rejected);
      if (drafts.length) this.#take(drafts, preset);
    }
  }

  #take(drafts, preset) {
    this.#fault("");
    const first = this.#drafts.length === 0;
    // What was sent makes room, and its seed is not meant for another image. One image has one draft.
    const sent = this.#drafts.filter((one) => one.sent);
    if (sent.length) this.#shared.seed = undefined;
    for (const one of sent) this.#drop(one);
    for (const one of this.#drafts) if (drafts.some(({ original }) => original === one.original)) this.#drop(one);
    this.#drafts.push(...drafts);
    for (const one of drafts) this.kept.add(one.original, one.source.file);
    this.#select(drafts[0]);
    this.#saveNow();
    announce(drafts.length === 1 ? `${drafts[0].name} was added.` : `${drafts.length} images were added.`);
    if (first || preset.settings) $("crop").focus({ preventScroll: true });
    if (preset.settings) $("composer").scrollIntoView({ block: "start" });
  }

  /** Take the settings out of a video of this service. */
  #restore(name, parameters) {
    const { settings } = ofJob(parameters);
    this.settings.set(settings);
    this.#changed();
    report($("composer-message"), `The settings of ${name} are used.${this.#drafts.length ? "" : " Add an image."}`);
  }

  /** Name the files that were not taken, each with its reason; none: take the earlier ones away. */
  #reject(files) {
    const rows = files.map(([name, reason]) => element("li", {}, element("b", {}, `${name}:`), ` ${reason}`));
    $("rejected-files").replaceChildren(...rows);
    $("rejected").hidden = !files.length;
  }

  #listen() {
    ways.listen({ add: (files) => this.add(files), rejected: (files) => this.#reject(files) });
    $("rejected-close").addEventListener("click", () => this.#reject([]));
    $("sample").addEventListener("click", () => this.#addSample());
    $("zoom").addEventListener("input", (event) => this.frame.move({ zoom: Number(event.target.value) }));
    $("rotate").addEventListener("click", () => this.#rotate());
    $("shape").addEventListener("change", (event) => {
      Object.assign(this.#current, { shape: event.target.value, place: { ...MIDDLE } });
      this.#edited();
      this.#render();
    });
    // At once: the form, which shows the drafts as they are, is notified next.
    $("pad").addEventListener("input", (event) => {
      for (const one of this.#drafts) one.pad = event.target.checked;
      this.#render();
    });
    $("variations").addEventListener("change", () => this.#render());
    addEventListener("pagehide", () => this.#saving && this.#saveNow());
    $("upload-cancel").addEventListener("click", () => this.#sending?.abort());
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  async #addSample() {
    const response = await fetch("page/sample.jpg");
    await this.add([new File([await response.blob()], "sample.jpg", { type: "image/jpeg" })]);
  }

  /** Turn the draft by one more quarter. Drawing takes a while: quick presses wait for the one before, none is lost. */
  #rotate() {
    const one = this.#current;
    this.#turning = this.#turning.catch(() => {}).then(() => this.#turn(one));
  }

  async #turn(one) {
    const turn = (one.turn + 1) % 4;
    await turned(one, turn);
    const upright = one.image.naturalHeight > one.image.naturalWidth;
    if (one.shape !== "square") one.shape = upright ? "portrait" : "landscape";
    one.place = { ...MIDDLE };
    this.#edited();
    this.#render();
    announce(`Turned to ${turn * 90} degrees.`);
  }

  /** The settings are others: those of a draft from an earlier job are its own, all others are shared. */
  #changed() {
    if (this.#current?.settings) this.#current.settings = this.settings.values();
    else this.#shared = this.settings.values();
    this.#edited();
    this.#render();
  }

  /** The draft on the stage is no longer what was sent. */
  #edited() {
    if (this.#current) this.#current.sent = false;
    this.#save();
  }

  #save(after = 300) {
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => this.#saveNow(), after);
  }

  #saveNow() {
    clearTimeout(this.#saving);
    this.#saving = 0;
    this.kept.keep(this.#drafts.filter((one) => !one.sent).map(kept));
  }

  /** Take away what was reported about an earlier attempt; with `passing`, only what is over as the service answers. */
  clearFault({ passing = false } = {}) {
    if (!passing || this.#passing) this.#fault("");
  }

  #fault(text, { passing = false } = {}) {
    $("composer-fault").textContent = text;
    this.#passing = passing;
  }

  #settingsOf(one) {
    return one?.settings ?? this.#shared;
  }

  #target(one) {
    const { size } = this.#settingsOf(one);
    return fileSize(this.settings.defaults, one.shape, sizeFault(size?.includes("x") ? size : "") ? "" : size);
  }

  #select(one) {
    this.#current = one;
    if (this.settings.offered) this.settings.set(this.#settingsOf(one));
    this.#render();
  }

  #render() {
    const [any, one] = [this.#drafts.length > 0, this.#current];
    $("composer").classList.toggle("filled", any);
    $("drop").hidden = any;
    $("example").hidden = any;
    $("editor").hidden = !any;
    // Until the models are known, neither are their settings: the service's defaults are used.
    $("settings").hidden = !this.settings.offered;
    $("vary-field").hidden = this.#variations === 1;
    $("submit").disabled = !any || Boolean(this.#sending);
    $("submit").textContent = this.#sending ? "Sending …" : this.#callToAction();
    $("strip").replaceChildren(...this.#drafts.map((each) => this.#tile(each)), ...(any ? [addTile()] : []));
    if (!one) return;
    this.settings.show(one.shape);
    this.frame.show(one, this.#target(one));
    for (const radio of $("shape").querySelectorAll("input")) radio.checked = radio.value === one.shape;
    $("pad").checked = one.pad;
    $("zoom").value = one.place.zoom;
    $("zoom").disabled = one.pad || !one.intact;
    $("rotate").disabled = !one.intact;
    $("shape").disabled = !one.intact;
    $("shape").hidden = this.settings.values().size.includes("x");
    $("crop-help").hidden = one.pad || !one.intact;
    this.#warn();
  }

  #warn() {
    const text = this.#current && this.settings.offered ? warning(this.#current, this.#target(this.#current)) : "";
    $("image-warning").textContent = text;
    $("image-warning").hidden = !text;
  }

  #callToAction() {
    const many = this.#drafts.length * this.#variations;
    const again = this.#drafts.length > 0 && this.#drafts.every(({ sent }) => sent);
    if (many > 1) return `Make ${many} ${again ? "more " : ""}videos`;
    return again ? "Make another video" : "Make the video";
  }

  #tile(one) {
    const actions = { edit: () => this.#focusing("tile", one), remove: () => this.#remove(one) };
    return tile(one, one === this.#current, actions);
  }

  #focusing(kind, one) {
    this.#select(one);
    $("strip").children[this.#drafts.indexOf(one)]?.querySelector(`.${kind}`)?.focus();
  }

  #remove(one) {
    const place = this.#drafts.indexOf(one);
    this.#drop(one);
    this.#fault("");
    announce(`${one.name} was removed.`);
    const next = this.#drafts[Math.min(place, this.#drafts.length - 1)];
    if (next) this.#focusing("tile", next);
    else $("files").focus();
  }

  #drop(one) {
    this.#drafts = this.#drafts.filter((other) => other !== one);
    this.kept.drop(one.original);
    for (const url of new Set([one.url, one.source.url])) if (url) URL.revokeObjectURL(url);
    if (this.#current === one) this.#select(this.#drafts[0] ?? null);
    else this.#render();
  }

  get #variations() {
    return Number(chosen("variations"));
  }

  async #submit() {
    if (this.#sending || !this.#drafts.length || !this.settings.check()) return;
    this.#sending = new AbortController();
    this.#fault("");
    this.#render();
    const faults = [];
    let passing = false;
    try {
      await Promise.allSettled([this.#turning, this.#reading]); // what was begun before the press is sent
      const several = this.#drafts.length > 1;
      for (const one of [...this.#drafts]) {
        try {
          await this.#make(one, this.#settingsOf(one));
        } catch (error) {
          if (!isOfTheImage(error)) throw error;
          // One bad image does not hold up the others; it stays, with its message.
          if (!faults.length) this.#select(one);
          faults.push(several ? `${one.name}: ${fault(error)}` : fault(error));
        }
      }
    } catch (error) {
      if (error.name === "AbortError") report($("composer-message"), "The upload is cancelled. Your images are still here.");
      else {
        faults.push(fault(error));
        passing = PASSING.has(error.status);
        this.onError(error);
      }
    } finally {
      this.#sending = null;
      $("uploading").hidden = true;
      this.#fault(faults.join("\n"), { passing });
      this.#render();
    }
  }

  async #make(one, settings) {
    const target = this.#target(one);
    const record = {
      name: one.name,
      sent: await cut(one, target),
      thumbnail: one.image ? await thumbnail(one.image, target, one.place, one.pad) : null,
      original: one.original,
      draft: kept(one),
      fields: {
        ...(this.settings.offered && (one.intact || settings.size) ? sizeFields(this.settings.defaults, one.shape, settings.size) : {}),
        ...(one.intact && { fit: one.pad ? "pad" : "crop" }),
      },
    };
    await this.kept.add(one.original, one.source.file);
    const count = this.#variations;
    if (count === 1) await this.send(record, fields(settings));
    else if ($("vary").value === "seed") await this.#sendGroup(record, { ...fields(settings), n: count });
    else await this.#sendMotions(record, settings, count);
    one.sent = true;
    this.#save(0);
  }

  /** Submit a record's image with these fields; the job is then reported. */
  async send(record, values) {
    await this.#accepted(await this.#generate(record, values), record);
  }

  /** Submit the image once, for all videos. */
  async #sendGroup(record, values) {
    const { jobs } = await this.#generate(record, values, "groups");
    for (const job of jobs) await this.#accepted(job, record);
  }

  /** The API's groups differ by their seed alone: these are jobs of their own, and one group on this page. */
  async #sendMotions(record, settings, together) {
    const [group, seed] = [randomWord(), settings.seed ?? randomSeed()];
    for (const motion_bucket_id of motions(together)) {
      await this.send({ ...record, group, together }, fields({ ...settings, seed, motion_bucket_id }));
    }
  }

  #generate(record, values, path = "generate") {
    const signal = this.#sending?.signal;
    const progress = (share) => this.#uploaded(record, share);
    return generate(record.sent, { ...values, ...record.fields }, { path, signal, progress });
  }

  #accepted(job, record) {
    return this.submitted(job, { ...record, id: job.task_id, created: Date.parse(job.created_at) });
  }

  #uploaded(record, share) {
    if (!this.#sending) return;
    $("uploading").hidden = false;
    $("upload-bar").value = share;
    // What is sent completely is a job already, or becomes one: it is cancelled on its card.
    $("upload-cancel").disabled = share === 1;
    const percent = Math.round(100 * share);
    $("upload-readout").textContent = share < 1 ? `Uploading ${record.name}: ${percent} %` : `${record.name} is sent …`;
  }
}
