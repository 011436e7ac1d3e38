// A program for the npm package `stability-ai`. The package has its host as a constant; this program only redirects
// that host to the service, by an interceptor of axios, the HTTP library that the package uses.
//
// usage: node stability_program.cjs FOLDER URL IMAGE          FOLDER: where the package is installed
const { createRequire } = require("node:module");
const [folder, url, image] = process.argv.slice(2);
const load = createRequire(`${folder}/node_modules/`);

load("axios").interceptors.request.use((request) => {
  request.url = request.url.replace("https://api.stability.ai", url);
  return request;
});
const { default: StabilityAI } = load("stability-ai");

(async () => {
  const client = new StabilityAI("sk-any").v2beta.stableVideo;
  const { id } = await client.imageToVideo(image, 1.8, 127, { seed: 42 });
  const statuses = [];
  let result = await client.imageToVideoResult(id);
  while (result.status) {
    statuses.push(result.status);
    await new Promise((resolve) => setTimeout(resolve, 200));
    result = await client.imageToVideoResult(id);
  }
  const unknown = await client.imageToVideoResult("0".repeat(64)).catch((error) => error.message);
  console.log(JSON.stringify({ id, statuses, result, unknown }));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
