/** A program for openapi-typescript and openapi-fetch; its arguments are the service's URL, an image and two output files. */
import createClient from "openapi-fetch";
import type { paths } from "./generated/client";
import { arguments_, dataUrl, pause, present, save } from "./node";

const { url, image, results } = arguments_();

async function main(): Promise<void> {
  const client = createClient<paths>({ baseUrl: url });
  const { task_id } = present(await client.POST("/generate", { body: { image: dataUrl(image), num_inference_steps: 2 } }));
  const task = { params: { path: { task_id } } };
  let job = present(await client.GET("/status/{task_id}", task));
  for (; job.status === "queued" || job.status === "started"; await pause()) {
    job = present(await client.GET("/status/{task_id}", task));
  }
  await save(results[0], present(await client.GET("/results/{task_id}", { ...task, parseAs: "blob" })));

  let video = present(await client.POST("/v1/videos", { body: { input_reference: dataUrl(image), prompt: "x" } }));
  const named = { params: { path: { video_id: video.id } } };
  for (; video.status === "queued" || video.status === "in_progress"; await pause()) {
    video = present(await client.GET("/v1/videos/{video_id}", named));
  }
  await save(results[1], present(await client.GET("/v1/videos/{video_id}/content", { ...named, parseAs: "blob" })));
}

void main();
