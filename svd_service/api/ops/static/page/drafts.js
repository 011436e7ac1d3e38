// The images that wait to be made into videos: each is a draft, with a tile in the strip below the stage.

import { randomWord } from "./api.js";
import { MIDDLE } from "./crop.js";
import { $, element } from "./dom.js";
import { examine } from "./intake.js";

/** A draft of a file; `preset` is what an earlier job of the same image had. Raises Rejected. */
export async function draft(file, { shape, pad = $("pad").checked, place = MIDDLE, name, settings, original }) {
  const found = await examine(file);
  const { image } = found;
  shape ??= image && image.naturalHeight > image.naturalWidth ? "portrait" : "landscape";
  const kept = { settings, original: original ?? randomWord() };
  return { ...found, ...kept, name: name ?? (file.name || "picture").replace(/\.[^.]+$/, ""), shape, pad, place: { ...place } };
}

/** A draft's tile: press it to edit, or take it away. */
export function tile(one, current, { edit, remove }) {
  const name = one.name;
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", class: "tile", "aria-pressed": String(current), "aria-label": `Edit ${name}`, on: { click: edit } },
      one.url ? element("img", { src: one.url, alt: "" }) : "?",
    ),
    element("button", { type: "button", class: "remove", "aria-label": `Remove ${name}`, on: { click: remove } }, "×"),
  );
}

/** The tile behind the drafts, which adds more. */
export const addTile = () => element("li", {}, element("label", { class: "tile add", htmlFor: "files" }, "+ Add"));

/** Whether a rejection is about this one picture and not about others. */
export const isOfThePicture = (error) => [413, 415].includes(error.status) || (error.status === 422 && !error.parameter);
