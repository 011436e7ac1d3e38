/** A program for a client from orval; its arguments are the service's URL, an image and two output files. */
import axios from "axios";
import { getResultsTaskId, getStatusTaskId, getV1VideosVideoId, getV1VideosVideoIdContent, postGenerate, postV1Videos } from "./generated/client";
import { arguments_, dataUrl, pause, save } from "./node";

const { url, image, results } = arguments_();

async function main(): Promise<void> {
  axios.defaults.baseURL = url;
  axios.defaults.adapter = "fetch"; // Node's other adapter does not support blobs
  const { data: accepted } = await postGenerate({ image: dataUrl(image), num_inference_steps: 2 });
  let job = accepted;
  for (; job.status === "queued" || job.status === "started"; await pause()) {
    job = (await getStatusTaskId(accepted.task_id)).data;
  }
  await save(results[0], (await getResultsTaskId(accepted.task_id)).data);

  let { data: video } = await postV1Videos({ input_reference: dataUrl(image), prompt: "x" });
  for (; video.status === "queued" || video.status === "in_progress"; await pause()) {
    video = (await getV1VideosVideoId(video.id)).data;
  }
  await save(results[1], (await getV1VideosVideoIdContent(video.id)).data);
}

void main();
