// The size of a video, from the shape of a draft and the size that was chosen.

const even = (side) => 2 * Math.round(side / 2);

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

/** What the model generates for a shape: its own size, upright, or a square of the same area (as jobs/clip.py does). */
export function generated({ width, height }, shape) {
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  if (shape === "portrait") return { width: short, height: long };
  if (shape !== "square" || short === long) return { width: long, height: short };
  const unit = divisor(64, divisor(width, height));
  const side = unit * Math.round(Math.sqrt(width * height) / unit);
  return { width: side, height: side };
}

/**
 * The file's size. `choice` is "" (as generated), the short side of a usual size such as "720", or "1280x720".
 */
export function fileSize(defaults, shape, choice) {
  if (!choice) return generated(defaults, shape);
  const [width, height] = choice.split("x").map(Number);
  if (height) return { width, height };
  const long = even((width * 16) / 9);
  return { landscape: { width: long, height: width }, portrait: { width, height: long } }[shape] ?? { width, height: width };
}

/** The fields of a request for that size. */
export function sizeFields(defaults, shape, choice) {
  const { width, height } = fileSize(defaults, shape, choice);
  return choice ? { size: `${width}x${height}` } : { width, height };
}

/** The shape and the choice that an earlier job's parameters stand for. */
export function choiceOf({ width, height, output_width = width, output_height = height }) {
  const shape = shapeOf(output_width, output_height);
  if (output_width === width && output_height === height) return { shape, size: "" };
  const short = String(Math.min(output_width, output_height));
  const usual = ["720", "1080"].includes(short) && fileSize({}, shape, short);
  const same = usual && usual.width === output_width && usual.height === output_height;
  return { shape, size: same ? short : `${output_width}x${output_height}` };
}

export function shapeOf(width, height) {
  if (width === height) return "square";
  return width < height ? "portrait" : "landscape";
}

/** Why a size cannot be made; "" if it can. */
export function sizeFault(text) {
  if (!text) return "";
  const sides = /^(\d{1,5})x(\d{1,5})$/.exec(text)?.slice(1).map(Number);
  if (!sides) return "Enter width and height in pixels.";
  if (sides.some((side) => side % 2 || side < 16 || side > 4096)) return "Each side is an even number from 16 to 4096.";
  return "";
}
