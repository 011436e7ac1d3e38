// The settings of the form: their names, limits and explanations. Defaults and limits of a model come from the service.

export const MAX_SEED = 4294967295;

/** The sliders, by the API's names. */
export const SLIDERS = {
  motion_bucket_id: { label: "Motion", min: 1, max: 255, readout: true, ends: ["calm", "lively"] },
  num_frames: { label: "Frames", min: 2, max: 25, readout: true },
  seconds: { label: "Seconds", min: 1, max: 30, readout: true },
  num_inference_steps: {
    label: "Steps",
    min: 1,
    max: 100,
    hint: "How often the video is refined. More takes longer and is finer.",
  },
  fps: {
    label: "Frames per second",
    min: 5,
    max: 30,
    hint: "The rate that the model is conditioned on: lower gives more motion from frame to frame. SVD was trained at 6.",
  },
  noise_aug_strength: {
    label: "Freedom",
    min: 0,
    max: 1,
    step: 0.01,
    hint: "How far the video may stray from the image. A little is usually best.",
  },
  max_guidance_scale: {
    label: "Faithfulness at the end",
    min: 1,
    max: 10,
    step: 0.1,
    hint: "How closely the last frames keep to the image. Much makes harsh colours.",
  },
  min_guidance_scale: {
    label: "Faithfulness at the start",
    min: 1,
    max: 10,
    step: 0.1,
    hint: "The same for the first frames; at most as much as at the end.",
  },
  decode_chunk_size: {
    label: "Frames decoded at once",
    min: 1,
    max: 50,
    hint: "Fewer need less memory on the graphics card.",
  },
};

export const LENGTH = {
  name: "length",
  label: "Length",
  shown: "",
  options: { frames: "In frames", seconds: "In seconds" },
};

export const SEGMENTS = {
  name: "segments",
  label: "Segments",
  min: 1,
  max: 50,
  placeholder: "1",
  hint: "Clips in a row, each of which continues from the last frame of the one before.",
};

export const DRIFT =
  "The model sees only the last frame of the segment before, not its motion: movement may change direction at a seam, " +
  "colours drift and details soften with every segment. Two or three segments of a calm scene usually look good, ten rarely.";

export const INTERPOLATE = {
  name: "interpolate",
  label: "Smoothness",
  options: { 1: "As generated", 2: "2×", 3: "3×", 4: "4×" },
  hint: "Adds frames between the generated ones. The video gets smoother, not longer.",
};

export const LOOP = {
  name: "loop",
  label: "Loop",
  options: { none: "None", pingpong: "Forth and back", crossfade: "End blended into the beginning" },
};

export const PLAYBACK = {
  name: "playback_fps",
  label: "Playback rate",
  min: 1,
  max: 120,
  placeholder: "automatic",
  hint: "Frames per second of the file. Fewer than usual is slow motion.",
};

export const SIZE = {
  name: "size",
  label: "Size",
  options: { "": "As the model makes it", 720: "720p", 1080: "1080p", other: "Other …" },
  hint: "Larger is scaled from what the model makes: that adds no detail.",
};

export const FORMATS = {
  name: "formats",
  label: "Files beside the MP4",
  options: { webm: "WebM", webp: "WebP", gif: "GIF", zip: "Frames (ZIP)" },
};

export const PROFILE = {
  name: "profile",
  label: "Quality",
  options: { exact: "Exact", draft: "Draft" },
  hint: "A draft takes fewer steps.",
};
