/** Declarations of the parts of Node that the programs use (Node's types are not installed), and shared functions. */
declare const process: { argv: string[] };
declare function require(name: "node:fs"): {
  readFileSync(path: string, encoding: "base64"): string;
  writeFileSync(path: string, data: Uint8Array): void;
};
const fs = require("node:fs");

export function arguments_(): { url: string; image: string; results: [string, string] } {
  const [, , url = "", image = "", native = "", openai = ""] = process.argv;
  return { url, image, results: [native, openai] };
}

export const dataUrl = (image: string): string => `data:image/jpeg;base64,${fs.readFileSync(image, "base64")}`;

export const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 300));

export function present<T>({ data, error }: { data?: T; error?: unknown }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

export async function save(path: string, data: unknown): Promise<void> {
  if (!(data instanceof Blob)) throw new Error(`the video is ${typeof data}, not a blob`);
  fs.writeFileSync(path, new Uint8Array(await data.arrayBuffer()));
}
