// Where a video begins: the pictures that were added, the part of each that is used, the settings, and sending them.

import { generate, randomSeed, randomWord } from "./api.js";
import { Frame, MIDDLE, cut, thumbnail } from "./crop.js";
import { $, announce, element, toast } from "./dom.js";
import { addTile, draft, isOfThePicture, tile } from "./drafts.js";
import { Rejected } from "./intake.js";
import { settingsIn } from "./metadata.js";
import { fault, length, motion } from "./words.js";

const MAX_SEED = 4294967295;
const SLIDERS = [
  "motion_bucket_id",
  "num_frames",
  "num_inference_steps",
  "fps",
  "noise_aug_strength",
  "max_guidance_scale",
  "min_guidance_scale",
  "decode_chunk_size",
];

/** Calls `submitted(job, record)` for every job, `refused(error)` for every error, and `original(id, file)` to keep a file. */
export class Composer {
  #drafts = [];
  #current = null;
  #defaults = { width: 1024, height: 576 };
  #models = [];
  #profiles = {};
  #busy = false;
  #shared = {};

  constructor({ submitted, refused, original }) {
    Object.assign(this, { submitted, refused, original });
    this.frame = new Frame($("crop"), ({ zoom }) => ($("zoom").value = zoom));
    this.#listen();
  }

  /** Let the caller choose among the models, the service's own first. */
  offer(models) {
    this.#models = models;
    $("model").replaceChildren(...models.map(({ name }) => element("option", { value: name }, name)));
    $("model-field").hidden = models.length === 1;
    this.#configure(models[0]);
  }

  /** Take defaults and bounds from the model's description. */
  #configure(model) {
    $("model").value = model.name;
    $("model-help").textContent = model.description;
    this.#defaults = { ...model.defaults, profile: "exact" };
    this.#profiles = model.profiles;
    for (const option of $("profile").options) option.hidden = option.disabled = !(option.value in model.profiles);
    for (const [name, [least, most]] of Object.entries(model.bounds)) {
      const slider = $(name);
      if (slider) Object.assign(slider, { min: least, max: most });
    }
    this.set(this.#defaults);
    const { width, height } = model.defaults;
    $("shape").hidden = width === height;
    this.#render();
  }

  /** Put settings into the form. */
  set(settings) {
    const model = this.#models.find(({ name }) => name === settings.model);
    if (model && model.name !== $("model").value) this.#configure(model);
    for (const name of SLIDERS) if (name in settings) $(name).value = settings[name];
    $("seed").value = settings.seed ?? "";
    if (settings.profile) $("profile").value = settings.profile;
    this.#say();
    this.#remember();
  }

  /** Note the form's settings: those of a draft from an earlier job are its own, all others are shared. */
  #remember() {
    if (this.#current?.settings) this.#current.settings = this.#settings();
    else this.#shared = this.#settings();
  }

  /** Add files; `preset` is {settings, shape, pad, place} of an earlier job. What is not an image is named with the reason. */
  async add(files, preset = {}) {
    const [drafts, rejected] = [[], []];
    $("composer").setAttribute("aria-busy", "true");
    for (const file of files) {
      try {
        const settings = /\.mp4$/i.test(file.name) ? await settingsIn(file) : null;
        if (settings) this.#restore(file.name, settings);
        else drafts.push(await draft(file, preset));
      } catch (error) {
        if (!(error instanceof Rejected)) throw error;
        rejected.push([file.name || "Pasted file", error.message]);
      }
    }
    $("composer").removeAttribute("aria-busy");
    this.#reject(rejected);
    if (!drafts.length) return;
    this.#fault("");
    const first = this.#drafts.length === 0;
    this.#drafts.push(...drafts);
    this.#select(drafts[0]);
    announce(drafts.length === 1 ? `${drafts[0].name} was added.` : `${drafts.length} pictures were added.`);
    if (first || preset.settings) $("crop").focus({ preventScroll: !preset.settings });
    if (preset.settings) $("composer").scrollIntoView({ block: "start" });
  }

  /** Take the settings out of a video of this service. */
  #restore(name, settings) {
    this.set(settings);
    toast(this.#drafts.length ? `The settings of ${name} are used.` : `The settings of ${name} are used. Add a picture.`);
  }

  /** Name the files that were not taken, each with its reason; none: take the earlier ones away. */
  #reject(files) {
    const rows = files.map(([name, reason]) => element("li", {}, element("b", {}, `${name}:`), ` ${reason}`));
    $("rejected-files").replaceChildren(...rows);
    $("rejected").hidden = !files.length;
  }

  #listen() {
    for (const id of ["files", "photo"]) {
      $(id).addEventListener("change", (event) => {
        this.add([...event.target.files]);
        event.target.value = ""; // so that the same file can be chosen again
      });
    }
    $("rejected-close").addEventListener("click", () => this.#reject([]));
    document.addEventListener("paste", (event) => {
      if (event.clipboardData?.files.length) this.add([...event.clipboardData.files]);
      else if (!event.target.closest?.("input, textarea")) this.#reject([["Clipboard", "It holds no image file."]]);
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      $("composer").classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) $("composer").classList.remove("over");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      $("composer").classList.remove("over");
      const files = [...event.dataTransfer.files];
      if (files.length) this.add(files);
      else this.#reject([["Dropped item", "It is not a file. Save an image of another page first, then add the file."]]);
    });
    for (const name of SLIDERS) $(name).addEventListener("input", () => this.#slide(name));
    $("model").addEventListener("change", (event) => {
      this.#configure(this.#models.find(({ name }) => name === event.target.value));
      announce(`The settings are those of ${event.target.value}.`);
    });
    $("profile").addEventListener("change", (event) => {
      $("num_inference_steps").value = this.#profiles[event.target.value].num_inference_steps;
      this.#say();
      this.#remember();
    });
    $("seed").addEventListener("input", () => this.#checkSeed());
    $("reseed").addEventListener("click", () => {
      $("seed").value = randomSeed();
      this.#checkSeed();
      this.#remember();
      announce(`Seed ${$("seed").value}`);
    });
    $("zoom").addEventListener("input", (event) => this.frame.move({ zoom: Number(event.target.value) }));
    $("shape").addEventListener("change", (event) => {
      Object.assign(this.#current, { shape: event.target.value, place: { ...MIDDLE } });
      this.#render();
    });
    $("pad").addEventListener("change", (event) => {
      for (const one of this.#drafts) one.pad = event.target.checked;
      this.#render();
    });
    $("defaults").addEventListener("click", () => {
      this.set(this.#defaults);
      announce("The model's own settings");
    });
    $("composer").addEventListener("input", () => this.#remember());
    $("variations").addEventListener("change", () => this.#render());
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  #slide(name) {
    const [low, high] = [$("min_guidance_scale"), $("max_guidance_scale")];
    // The start may not exceed the end: the one that was not touched goes along.
    if (Number(low.value) > Number(high.value)) {
      if (name === "min_guidance_scale") high.value = low.value;
      else low.value = high.value;
    }
    this.#say();
  }

  #say() {
    for (const output of document.querySelectorAll(".more output")) output.value = $(output.htmlFor.value).value;
    $("motion-says").value = motion(Number($("motion_bucket_id").value));
    $("length-says").value = length(Number($("num_frames").value), Number($("fps").value));
    $("motion_bucket_id").setAttribute("aria-valuetext", `${$("motion_bucket_id").value}, ${$("motion-says").value}`);
    $("num_frames").setAttribute("aria-valuetext", $("length-says").value);
  }

  #checkSeed() {
    const seed = $("seed").value.trim();
    const good = /^\d*$/.test(seed) && Number(seed) <= MAX_SEED;
    $("seed-fault").hidden = good;
    $("seed-fault").textContent = good ? "" : `A whole number from 0 to ${MAX_SEED}, or nothing for a random one.`;
    $("seed").setAttribute("aria-invalid", String(!good));
    return good;
  }

  /** Take away what was reported about an earlier attempt. */
  clearFault() {
    this.#fault("");
  }

  #fault(text) {
    $("composer-fault").textContent = text;
  }

  #target(one) {
    const { width, height } = this.#defaults;
    const [short, long] = [Math.min(width, height), Math.max(width, height)];
    return one.shape === "portrait" ? { width: short, height: long } : { width: long, height: short };
  }

  #select(one) {
    this.#current = one;
    if (this.#models.length) this.set(one?.settings ?? this.#shared);
    this.#render();
  }

  #render() {
    const [any, one] = [this.#drafts.length > 0, this.#current];
    $("composer").classList.toggle("filled", any);
    $("drop").hidden = any;
    $("editor").hidden = !any;
    $("submit").disabled = !any || this.#busy;
    $("submit").textContent = this.#busy
      ? "Sending …"
      : this.#drafts.length * this.#variations > 1
        ? `Make ${this.#drafts.length * this.#variations} videos`
        : "Make the video";
    $("strip").replaceChildren(...this.#drafts.map((one) => this.#tile(one)), ...(any ? [addTile()] : []));
    if (!one) return;
    this.frame.show(one, this.#target(one));
    for (const radio of $("shape").querySelectorAll("input")) radio.checked = radio.value === one.shape;
    $("pad").checked = one.pad;
    $("zoom").value = one.place.zoom;
    $("zoom").disabled = one.pad || !one.intact;
    $("shape").disabled = !one.intact;
    $("crop-help").hidden = one.pad || !one.intact;
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
    announce(`${one.name} was removed.`);
    const next = this.#drafts[Math.min(place, this.#drafts.length - 1)];
    if (next) this.#focusing("tile", next);
    else $("files").focus();
  }

  #drop(one) {
    this.#drafts = this.#drafts.filter((other) => other !== one);
    if (one.url) URL.revokeObjectURL(one.url);
    if (this.#current === one) this.#select(this.#drafts[0] ?? null);
    else this.#render();
  }

  get #variations() {
    return Number($("variations").querySelector(":checked").value);
  }

  /** The settings as the form has them. */
  #settings() {
    const settings = Object.fromEntries(SLIDERS.map((name) => [name, Number($(name).value)]));
    const seed = $("seed").value.trim();
    settings.profile = $("profile").value;
    settings.model = $("model").value;
    return seed ? { ...settings, seed: Number(seed) } : settings;
  }

  async #submit() {
    if (this.#busy || !this.#drafts.length) return;
    if (!this.#checkSeed()) {
      $("seed").focus();
      return;
    }
    this.#busy = true;
    this.#fault("");
    this.#render();
    const several = this.#drafts.length > 1;
    const faults = [];
    try {
      for (const one of [...this.#drafts]) {
        try {
          await this.#make(one, one.settings ?? this.#shared);
        } catch (error) {
          if (!isOfThePicture(error)) throw error;
          // One bad picture does not hold up the others; it stays, with its message.
          if (!faults.length) this.#select(one);
          faults.push(several ? `${one.name}: ${fault(error)}` : fault(error));
        }
      }
    } catch (error) {
      faults.push(fault(error));
      this.refused(error);
    } finally {
      this.#busy = false;
      this.#fault(faults.join("\n"));
      this.#render();
    }
  }

  async #make(one, settings) {
    const target = this.#target(one);
    const picture = await cut(one, target);
    const record = {
      name: one.name,
      picture,
      thumbnail: one.image ? await thumbnail(one.image, target, one.place, one.pad) : null,
      original: one.original,
      draft: { shape: one.shape, pad: one.pad, place: { ...one.place } },
      fields: one.intact ? { ...target, fit: one.pad ? "pad" : "crop" } : {},
    };
    await this.original(record.original, one.file);
    const group = randomWord();
    const first = settings.seed ?? randomSeed();
    for (let number = 0; number < this.#variations; number++) {
      const seed = this.#variations > 1 ? (first + number) % (MAX_SEED + 1) : settings.seed;
      await this.send({ ...record, group }, seed === undefined ? settings : { ...settings, seed });
    }
    this.#drop(one);
  }

  /** Submit a record's picture with these settings; the job is then reported. */
  async send(record, settings) {
    const job = await generate(record.picture, { ...settings, ...record.fields });
    await this.submitted(job, { ...record, id: job.task_id, created: Date.parse(job.created_at) });
  }
}
