// What a user of the npm package `stability-ai` does. Its host is a constant in it; only where that name leads is
// changed here, by the HTTP library that it uses itself, as a name server would.
//
// usage: node stability_program.cjs FOLDER URL PICTURE          FOLDER: where the package is installed
const { createRequire } = require("node:module");
const [folder, url, picture] = process.argv.slice(2);
const load = createRequire(`${folder}/node_modules/`);

load("axios").interceptors.request.use((request) => {
  request.url = request.url.replace("https://api.stability.ai", url);
  return request;
});
const { default: StabilityAI } = load("stability-ai");

(async () => {
  const client = new StabilityAI("sk-any").v2beta.stableVideo;
  const { id } = await client.imageToVideo(picture, 1.8, 127, { seed: 42 });
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
