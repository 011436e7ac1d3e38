/** A program for a client from @hey-api/openapi-ts; its arguments are the service's URL, an image and two output files. */
import { client } from "./generated/client.gen";
import { getResultsTaskId, getStatusTaskId, getV1VideosVideoId, getV1VideosVideoIdContent, postGenerate, postV1Videos } from "./generated/sdk.gen";
import { arguments_, dataUrl, pause, save } from "./node";

const { url, image, results } = arguments_();

async function main(): Promise<void> {
  client.setConfig({ baseUrl: url, throwOnError: true });
  const accepted = await postGenerate({ body: { image: dataUrl(image), num_inference_steps: 2 }, throwOnError: true });
  const path = { task_id: accepted.data.task_id };
  let job = await getStatusTaskId({ path, throwOnError: true });
  for (; job.data.status === "queued" || job.data.status === "started"; await pause()) {
    job = await getStatusTaskId({ path, throwOnError: true });
  }
  await save(results[0], (await getResultsTaskId({ path, throwOnError: true })).data);

  const created = await postV1Videos({ body: { input_reference: dataUrl(image), prompt: "x" }, throwOnError: true });
  const video_id = created.data.id;
  let video = created.data;
  for (; video.status === "queued" || video.status === "in_progress"; await pause()) {
    video = (await getV1VideosVideoId({ path: { video_id }, throwOnError: true })).data;
  }
  await save(results[1], (await getV1VideosVideoIdContent({ path: { video_id }, throwOnError: true })).data);
}

void main();
