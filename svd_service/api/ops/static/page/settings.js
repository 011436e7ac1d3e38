// The settings of the next video: what the form holds, a model's defaults and limits, and the fields of a request.

import { randomSeed } from "./api.js";
import { $, announce, element } from "./dom.js";
import { box, checks, choices, choose, chosen, list, slide, slider, tick, ticked } from "./fields.js";
import { DRIFT, FORMATS, INTERPOLATE, LENGTH, LOOP, MAX_SEED, PLAYBACK, PROFILE, SEGMENTS, SIZE, SLIDERS } from "./options.js";
import { choiceOf, fileSize, sizeFault } from "./sizes.js";
import { length, motion } from "./words.js";

const USUAL = { length: "frames", segments: 1, interpolate: "1", loop: "none", size: "", playback_fps: "", profile: "exact" };
const made = (name) => slider({ name, ...SLIDERS[name] });

/** Calls `changed()` whenever a setting or the model is another one. */
export class Settings {
  #models = [];
  #profiles = {};
  defaults = { width: 1024, height: 576 };

  constructor({ changed }) {
    this.changed = changed;
    this.#build();
    this.#listen();
  }

  /** Let the caller choose among the models, the service's own first. `limits`: {seconds}. */
  offer(models, limits) {
    this.#models = models;
    $("model").replaceChildren(...models.map(({ name }) => element("option", { value: name }, name)));
    $("model-field").hidden = models.length === 1;
    if (limits) slide("seconds", undefined, [1, limits.seconds]);
    this.#configure(models[0]);
  }

  get offered() {
    return this.#models.length > 0;
  }

  /** The model's own settings again. */
  reset() {
    this.set({ ...USUAL, formats: ["webp", "gif"], seed: undefined, ...this.defaults });
  }

  /** Put settings into the form; what is not named stays. */
  set(settings) {
    const model = this.#models.find(({ name }) => name === settings.model);
    if (model && model.name !== $("model").value) this.#configure(model);
    for (const name of Object.keys(SLIDERS)) if (name in settings) slide(name, settings[name]);
    for (const name of ["length", "interpolate"]) if (settings[name] !== undefined) choose(name, settings[name]);
    for (const name of ["segments", "playback_fps", "loop", "profile"]) if (settings[name] !== undefined) $(name).value = settings[name];
    if (settings.formats) tick("formats", settings.formats);
    if (settings.size !== undefined) this.#setSize(settings.size);
    if ("seed" in settings) $("seed").value = settings.seed ?? "";
    this.#showReadouts();
  }

  /** What the form holds. */
  values() {
    const values = Object.fromEntries(Object.keys(SLIDERS).map((name) => [name, Number($(name).value)]));
    for (const name of ["length", "interpolate"]) values[name] = chosen(name);
    for (const name of ["model", "profile", "loop", "playback_fps"]) values[name] = $(name).value;
    const seed = $("seed").value.trim();
    return {
      ...values,
      segments: Number($("segments").value) || 1,
      formats: ticked("formats"),
      size: this.#size(),
      seed: seed ? Number(seed) : undefined,
    };
  }

  /** Whether the form can be sent; else the first fault is focused. */
  check() {
    const faulty = [!this.#checkSeed() && $("seed"), !this.#checkSize() && $("size-width")].find(Boolean);
    faulty?.focus();
    if (faulty || !["segments", "playback_fps"].some((name) => !$(name).checkValidity())) return !faulty;
    $("more").open = true;
    return $("composer").reportValidity();
  }

  /** Name the sizes of a shape, and the file's size that results. */
  show(shape) {
    for (const option of $("size").options) {
      if (option.value === "other") continue;
      const { width, height } = fileSize(this.defaults, shape, option.value);
      option.textContent = `${SIZE.options[option.value]} · ${width} × ${height}`;
    }
  }

  #build() {
    const custom = element(
      "div",
      { class: "row joined", id: "size-other", hidden: true },
      element("input", { type: "number", id: "size-width", min: 16, max: 4096, step: 2, "aria-label": "Width in pixels" }),
      "×",
      element("input", { type: "number", id: "size-height", min: 16, max: 4096, step: 2, "aria-label": "Height in pixels" }),
    );
    $("motion-place").replaceWith(made("motion_bucket_id"));
    const drift = element("p", { class: "hint drift", id: "drift", hidden: true }, DRIFT);
    $("length-place").replaceWith(choices(LENGTH), made("num_frames"), made("seconds"), drift, choices(INTERPOLATE));
    $("quality-place").replaceWith(list(PROFILE));
    const fault = element("p", { class: "fault", id: "size-fault", hidden: true });
    $("more-place").replaceWith(
      list(SIZE, custom, fault),
      box(SEGMENTS),
      list(LOOP),
      box(PLAYBACK),
      checks(FORMATS),
      ...["num_inference_steps", "fps", "noise_aug_strength"].map(made),
      ...["max_guidance_scale", "min_guidance_scale", "decode_chunk_size"].map(made),
    );
  }

  #listen() {
    for (const name of Object.keys(SLIDERS)) $(name).addEventListener("input", () => this.#slide(name));
    $("model").addEventListener("change", (event) => {
      this.#configure(this.#models.find(({ name }) => name === event.target.value));
      announce(`The settings are those of ${event.target.value}.`);
    });
    $("profile").addEventListener("change", (event) => {
      slide("num_inference_steps", this.#profiles[event.target.value].num_inference_steps);
    });
    $("seed").addEventListener("input", () => this.#checkSeed());
    $("reseed").addEventListener("click", () => {
      $("seed").value = randomSeed();
      this.#checkSeed();
      this.changed();
      announce(`Seed ${$("seed").value}`);
    });
    $("defaults").addEventListener("click", () => {
      this.reset();
      this.changed();
      announce("The model's own settings");
    });
    for (const kind of ["input", "change"]) {
      $("settings").addEventListener(kind, () => {
        this.#checkSize();
        this.#showReadouts();
        this.changed();
      });
    }
  }

  /** Take defaults and limits from a model's description. */
  #configure(model) {
    $("model").value = model.name;
    $("model-help").textContent = model.description;
    this.defaults = model.defaults;
    this.#profiles = model.profiles;
    for (const option of $("profile").options) option.hidden = option.disabled = !(option.value in model.profiles);
    for (const [name, limits] of Object.entries(model.bounds)) if (name in SLIDERS) slide(name, undefined, limits);
    this.reset();
  }

  #slide(name) {
    const [low, high] = ["min_guidance_scale", "max_guidance_scale"];
    // The start may not exceed the end: the one that was not moved follows.
    if (Number($(low).value) > Number($(high).value)) {
      if (name === low) slide(high, $(low).value);
      else slide(low, $(high).value);
    }
  }

  /** The values in words, and only those settings that count. */
  #showReadouts() {
    const values = this.values();
    const inSeconds = values.length === "seconds";
    for (const name of ["num_frames", "segments", "fps", "playback_fps"]) $(`${name}-field`).hidden = inSeconds;
    $("seconds-field").hidden = !inSeconds;
    $("motion_bucket_id-readout").value = motion(values.motion_bucket_id);
    const frames = values.segments * (values.num_frames - 1) + 1;
    $("num_frames-readout").value = length(frames, values.fps);
    $("seconds-readout").value = "to within 5 %";
    const clip = this.defaults.num_frames / Math.min(6, this.defaults.fps);
    $("drift").hidden = inSeconds ? values.seconds <= clip * 1.05 : values.segments < 2;
    $("size-other").hidden = $("size").value !== "other";
    $("motion_bucket_id").setAttribute("aria-valuetext", `${values.motion_bucket_id}, ${motion(values.motion_bucket_id)}`);
    $("num_frames").setAttribute("aria-valuetext", $("num_frames-readout").value);
  }

  #size() {
    return $("size").value === "other" ? `${$("size-width").value}x${$("size-height").value}` : $("size").value;
  }

  #setSize(size) {
    const other = size.includes("x");
    $("size").value = other ? "other" : size;
    if (other) [$("size-width").value, $("size-height").value] = size.split("x");
    this.#checkSize();
  }

  #checkSize() {
    const fault = sizeFault($("size").value === "other" ? this.#size() : "");
    $("size-fault").textContent = fault;
    $("size-fault").hidden = !fault;
    return !fault;
  }

  #checkSeed() {
    const seed = $("seed").value.trim();
    const good = /^\d*$/.test(seed) && Number(seed) <= MAX_SEED;
    $("seed-fault").hidden = good;
    $("seed-fault").textContent = good ? "" : `A whole number from 0 to ${MAX_SEED}, or nothing for a random one.`;
    $("seed").setAttribute("aria-invalid", String(!good));
    return good;
  }
}

/** An earlier job's parameters as fields of a request with an image: without those of an extension. */
export function fieldsOf({ extend, extend_as, extended_frames, ...parameters }) {
  return parameters;
}

/** The form's settings and the draft's shape for an earlier job's parameters. */
export function ofJob(parameters) {
  const { width, height, output_width, output_height, playback_fps, ...rest } = fieldsOf(parameters);
  const usual = parameters.fps * (parameters.interpolate ?? 1);
  const settings = { ...rest, length: "frames" };
  if (playback_fps) settings.playback_fps = playback_fps === usual ? "" : playback_fps;
  if (!width) return { settings };
  const { shape, size } = choiceOf({ width, height, output_width, output_height });
  return { shape, settings: { ...settings, size } };
}

/** The fields of a request for these settings, without those of size and fit. */
export function fields({ length: by, size, seconds, num_frames, segments, fps, playback_fps, seed, ...settings }) {
  const lasting = by === "seconds" ? { seconds } : { num_frames, segments, fps, ...(playback_fps && { playback_fps }) };
  return { ...settings, ...lasting, ...(seed !== undefined && { seed }) };
}
