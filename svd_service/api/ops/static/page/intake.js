// Which files the page takes. Chosen, dropped, pasted and photographed files all pass through `examine`.

/** The formats that the service reads, as in jobs/images/scan. */
export const READABLE = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"];

const SAVE_AS = "Save it as JPEG or PNG, then add that.";
const KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC";

/** A file that is not taken; `message` is the reason, a sentence. */
export class Rejected extends Error {}

/**
 * A file as an image: {file, image, url, intact}. `image` is null where the browser cannot show it. Only an `intact` one may
 * be cut here: canvas would hide from the service that a file is damaged.
 */
export async function examine(file) {
  const bytes = await contentOf(file);
  const kind = kindOf(bytes);
  if (isAnimated(kind, bytes)) throw new Rejected(`It is animated. ${SAVE_AS.replace("it", "one frame of it")}`);
  const shown = await decoded(file);
  if (READABLE.includes(kind)) return { file, intact: Boolean(shown.image) && (await isWhole(file)), ...shown };
  if (shown.image?.naturalWidth) return examine(await converted(file, shown));
  URL.revokeObjectURL(shown.url);
  throw new Rejected(`It is not an image that the service can read: ${KINDS}.`);
}

async function contentOf(file) {
  if (!file.size) throw new Rejected("It is empty, or a folder.");
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Rejected("It cannot be read. If it is a folder, add the files in it.");
  }
}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

/** What a file is by its first bytes: neither its name nor its declared type decides. */
export function kindOf(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return "JPEG";
  if (text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return "PNG";
  if (text(bytes, 0, 4) === "GIF8") return "GIF";
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP") return "WEBP";
  if (text(bytes, 0, 2) === "BM") return "BMP";
  if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(text(bytes, 0, 4))) return "TIFF";
  if (text(bytes, 4, 8) === "ftyp") return brandKind(text(bytes, 8, 12));
  return "";
}

function brandKind(brand) {
  if (["avif", "avis"].includes(brand)) return "AVIF";
  return ["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"].includes(brand) ? "HEIC" : "";
}

function isAnimated(kind, bytes) {
  if (kind === "GIF") return gifFrames(bytes) > 1;
  if (kind === "WEBP") return text(bytes, 12, 16) === "VP8X" && (bytes[20] & 2) !== 0;
  if (kind === "PNG") return hasPngChunk(bytes, "acTL");
  return kind === "AVIF" && text(bytes, 8, 12) === "avis";
}

/** Whether a chunk stands before the pixels (IDAT), as an animation's control chunk does. */
function hasPngChunk(bytes, name) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 8 <= bytes.length; at += 12 + view.getUint32(at)) {
    const chunk = text(bytes, at + 4, at + 8);
    if (chunk === name) return true;
    if (chunk === "IDAT") return false;
  }
  return false;
}

/** Frames of a GIF, counted up to two (GIF89a, sections 18 to 26). */
function gifFrames(bytes) {
  const table = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  const afterBlocks = (at) => {
    while (bytes[at]) at += bytes[at] + 1;
    return at + 1;
  };
  let frames = 0;
  for (let at = 13 + table(bytes[10]); at < bytes.length && frames < 2; ) {
    if (bytes[at] === 0x2c) {
      frames++;
      at = afterBlocks(at + 11 + table(bytes[at + 9]));
    } else if (bytes[at] === 0x21) at = afterBlocks(at + 2);
    else break;
  }
  return frames;
}

async function decoded(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return { image, url };
  } catch {
    URL.revokeObjectURL(url);
    return { image: null, url: null };
  }
}

/** Whether all of an image is there: browsers draw the first half of a cut file without complaint. */
async function isWhole(file) {
  try {
    (await createImageBitmap(file)).close();
    return true;
  } catch {
    return false;
  }
}

/** What only the browser can read, such as JPEG XL in Safari, as a JPEG. */
async function converted(file, { image, url }) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  URL.revokeObjectURL(url);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  if (!blob) throw new Rejected(`It has too many pixels for this browser. ${SAVE_AS}`);
  return new File([blob], file.name, { type: "image/jpeg" });
}
