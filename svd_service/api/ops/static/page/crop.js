// Which part of an image is used: the arithmetic, the frame that a person moves, and the cut image.

import { announce, element } from "./dom.js";
import { listenForPinch } from "./pinch.js";

/** Larger files than this are sent smaller, in bytes: pixels that no video shows are not uploaded. */
const LARGE = 10_000_000;

/** What ends a drag. */
const ENDS = ["pointerup", "pointercancel", "pinchstart"];

/** The part of an image (in its own pixels) that a video of `target` shows. `place`: {x, y, zoom}, x and y in 0..1. */
export function region(image, target, place) {
  const aspect = target.width / target.height;
  const width = Math.min(image.width, image.height * aspect) / place.zoom;
  const height = width / aspect;
  return {
    left: (image.width - width) * place.x,
    top: (image.height - height) * place.y,
    width,
    height,
  };
}

export const MIDDLE = Object.freeze({ x: 0.5, y: 0.5, zoom: 1 });

const isMiddle = (place) => Object.keys(MIDDLE).every((name) => place[name] === MIDDLE[name]);

/** The image to send: the file as it is where the service's own cut does, else the part that was chosen. */
export async function cut({ file, image, intact, place, pad }, target) {
  if (!intact || ((pad || isMiddle(place)) && file.size <= LARGE)) return file;
  const whole = { left: 0, top: 0, width: image.naturalWidth, height: image.naturalHeight };
  const part = pad ? whole : region(whole, target, place);
  // Twice the video's size leaves the service something to sharpen from.
  const scale = Math.min(1, (2 * Math.max(target.width, target.height)) / Math.max(part.width, part.height));
  const blob = await draw(image, part, part.width * scale, part.height * scale, 0.95);
  return new File([blob], file.name || "image.jpg", { type: "image/jpeg" });
}

/** A small image of the part, for the job's card. */
export function thumbnail(image, target, place, pad) {
  const whole = { left: 0, top: 0, width: image.naturalWidth, height: image.naturalHeight };
  const part = pad ? whole : region(whole, target, place);
  const scale = 480 / Math.max(part.width, part.height);
  return draw(image, part, part.width * scale, part.height * scale, 0.8);
}

function draw(image, part, width, height, quality) {
  const canvas = element("canvas", { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the service takes what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, part.left, part.top, part.width, part.height, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new Error("the image could not be cut")));
    canvas.toBlob(done, "image/jpeg", quality);
  });
}

/** The frame over an image. It moves by pointer, by wheel, by two fingers and by keys, and calls `moved(place)`. */
export class Frame {
  constructor(box, moved) {
    this.box = box;
    this.moved = moved;
    this.frame = element("div", { class: "frame" });
    box.addEventListener("pointerdown", (event) => this.#grab(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    listenForPinch(box, (factor, at) => this.#usable && this.#zoom(factor, at));
  }

  /** Show a draft: {image, place, pad, name} and the size of its video. */
  show(draft, target) {
    Object.assign(this, { draft, target });
    const { image, intact, pad } = draft;
    this.box.classList.toggle("pad", Boolean(intact && pad));
    this.box.classList.toggle("blind", !intact);
    const shape = intact && !pad ? image.naturalWidth / image.naturalHeight : target.width / target.height;
    this.box.style.setProperty("--shape", shape);
    if (!intact) {
      const why = image ? "seems damaged or cut short" : "cannot be shown by this browser";
      const words = `${draft.name} ${why}. It is sent as it is, and its middle is used if the service can read it.`;
      this.box.replaceChildren(element("p", {}, words));
      return;
    }
    image.alt = "";
    image.draggable = false;
    this.box.replaceChildren(image, this.frame);
    this.#place();
  }

  #place() {
    const { naturalWidth: width, naturalHeight: height } = this.draft.image;
    const part = region({ width, height }, this.target, this.draft.place);
    const percent = { left: part.left / width, top: part.top / height, width: part.width / width };
    percent.height = part.height / height;
    for (const [name, value] of Object.entries(percent)) this.frame.style[name] = `${value * 100}%`;
    // A finger still scrolls the page over a frame that moves sideways only.
    this.box.style.touchAction = percent.height > 0.99 ? "pan-y" : "";
  }

  move(change) {
    const { place } = this.draft;
    for (const [name, value] of Object.entries(change)) {
      place[name] = Math.min(name === "zoom" ? 4 : 1, Math.max(name === "zoom" ? 1 : 0, value));
    }
    this.#place();
    this.moved(place);
  }

  /** Whether there is a part to choose. */
  get #usable() {
    return Boolean(this.draft?.intact && !this.draft.pad);
  }

  /** Over a stage that is not in use, and beyond the limits, the wheel scrolls the page. */
  #wheel(event) {
    if (!this.#usable || (document.activeElement !== this.box && !event.ctrlKey)) return;
    if (this.#zoom(Math.exp(-event.deltaY / 600), event)) event.preventDefault();
  }

  /** Zoom about a point of the window; returns whether that changed anything. */
  #zoom(factor, { clientX, clientY }) {
    const { place, image } = this.draft;
    const zoom = Math.min(4, Math.max(1, place.zoom * factor));
    if (zoom === place.zoom) return false;
    const whole = { width: image.naturalWidth, height: image.naturalHeight };
    const before = region(whole, this.target, place);
    const after = region(whole, this.target, { ...place, zoom });
    const box = this.box.getBoundingClientRect();
    const at = { x: ((clientX - box.left) / box.width) * whole.width, y: ((clientY - box.top) / box.height) * whole.height };
    const shift = (point, start, size, now, room) => (room > 0 ? (point - ((point - start) * now) / size) / room : 0.5);
    this.move({
      zoom,
      x: shift(at.x, before.left, before.width, after.width, whole.width - after.width),
      y: shift(at.y, before.top, before.height, after.height, whole.height - after.height),
    });
    return true;
  }

  #grab(event) {
    if (!this.#usable || event.button !== 0 || !event.isPrimary) return;
    const { naturalWidth: width, naturalHeight: height } = this.draft.image;
    const part = region({ width, height }, this.target, this.draft.place);
    const scale = width / this.box.clientWidth;
    const from = { ...this.draft.place, pageX: event.pageX, pageY: event.pageY };
    const room = { x: (width - part.width) / scale, y: (height - part.height) / scale };
    const follow = (move) => {
      if (move.pointerId !== event.pointerId) return;
      const change = {};
      // The frame follows the pointer; along a side that it fills it cannot move.
      if (room.x > 0.5) change.x = from.x + (move.pageX - from.pageX) / room.x;
      if (room.y > 0.5) change.y = from.y + (move.pageY - from.pageY) / room.y;
      this.move(change);
    };
    const release = () => {
      this.box.classList.remove("held");
      this.box.removeEventListener("pointermove", follow);
      for (const end of ENDS) this.box.removeEventListener(end, release);
    };
    this.box.setPointerCapture(event.pointerId);
    this.box.classList.add("held");
    this.box.addEventListener("pointermove", follow);
    // A second finger zooms instead.
    for (const end of ENDS) this.box.addEventListener(end, release);
  }

  #key(event) {
    if (!this.#usable || event.ctrlKey || event.metaKey || event.altKey) return;
    const { x, y, zoom } = this.draft.place;
    const step = event.shiftKey ? 0.2 : 0.05;
    const change = {
      ArrowLeft: { x: x - step },
      ArrowRight: { x: x + step },
      ArrowUp: { y: y - step },
      ArrowDown: { y: y + step },
      "+": { zoom: zoom + 0.1 },
      "=": { zoom: zoom + 0.1 },
      "-": { zoom: zoom - 0.1 },
      Home: MIDDLE,
    }[event.key];
    if (!change) return;
    event.preventDefault();
    this.move(change);
    const percent = (value) => `${Math.round(value * 100)} percent`;
    const place = this.draft.place;
    announce(`${percent(place.x)} from the left, ${percent(place.y)} from the top, zoom ${place.zoom.toFixed(1)}`);
  }
}
