// The images that wait to be made into videos: each is a draft, with a tile in the strip below the stage.

import { randomWord } from "./api.js";
import { MIDDLE, region } from "./crop.js";
import { $, element } from "./dom.js";
import { examine } from "./intake.js";
import { shapeOf } from "./sizes.js";

/** An image that is so many times as long as wide is mostly cut away. */
const VERY_LONG = 3;

/** A draft of a file; `preset` is what an earlier job of the same image had. Raises Rejected. */
export async function draft(file, { shape, pad = $("pad").checked, place = MIDDLE, turn = 0, name, settings, original }) {
  const found = await examine(file);
  const { image } = found;
  shape ??= image && shapeOf(image.naturalWidth, image.naturalHeight) === "portrait" ? "portrait" : "landscape";
  const made = {
    ...found,
    source: found,
    settings,
    original: original ?? randomWord(),
    name: name ?? (file.name || "image").replace(/\.[^.]+$/, ""),
    shape,
    pad,
    place: { ...place },
    turn: 0,
  };
  return turn ? turned(made, turn) : made;
}

/** What brings a draft back: its crop, its shape and, where they are its own, its settings. */
export const kept = ({ original, name, shape, pad, place, turn, settings }) => ({
  ...{ original, name, shape, pad, turn, settings },
  place: { ...place },
});

/** Turn a draft to `turn` quarters clockwise of its file; the same draft. */
export async function turned(one, turn) {
  if (one.url && one.url !== one.source.url) URL.revokeObjectURL(one.url);
  if (!turn) return Object.assign(one, one.source, { turn });
  const { image, file } = one.source;
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = element("canvas", turn % 2 ? { width: height, height: width } : { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the service takes what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.translate(canvas.width / 2, canvas.height / 2);
  context.rotate((turn * Math.PI) / 2);
  context.drawImage(image, -width / 2, -height / 2);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  if (!blob) return one; // more pixels than a canvas holds
  const turnedFile = new File([blob], file.name || "image.jpg", { type: "image/jpeg" });
  const url = URL.createObjectURL(turnedFile);
  const shown = new Image();
  shown.src = url;
  await shown.decode();
  return Object.assign(one, { file: turnedFile, image: shown, url, turn });
}

/** What is likely to disappoint about a draft at a size of the video; "" where nothing is. */
export function warning({ image, intact, pad, place }, target) {
  if (!intact) return "";
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const whole = { width, height };
  const part = pad ? whole : region(whole, target, place);
  const warnings = [];
  const scale = Math.max(target.width / part.width, target.height / part.height);
  if (scale > 2) {
    const what = `${Math.round(part.width)} × ${Math.round(part.height)} pixels`;
    warnings.push(`Only ${what} are used for a video of ${target.width} × ${target.height}: it will look soft.`);
  }
  const length = Math.max(width / height, height / width);
  if (!pad && length >= VERY_LONG) {
    const share = Math.round((100 * part.width * part.height) / (width * height));
    warnings.push(`The image is ${length.toFixed(1)} times as long as wide: ${share} % of it is used.`);
  }
  return warnings.join(" ");
}

/** A draft's tile: press it to edit, or take it away. */
export function tile(one, current, { edit, remove }) {
  const name = one.name;
  return element(
    "li",
    { class: one.sent ? "sent" : "" },
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

/** Whether a rejection is about this one image and not about others. */
export const isOfTheImage = (error) => [413, 415].includes(error.status) || (error.status === 422 && !error.parameter);
