// The settings in a video of this service: its MP4's comment is a JSON object, see video/rendering.py.

/** The parameters and the model of a video file, or null where it has none. */
export async function settingsIn(file) {
  const text = new TextDecoder().decode(await file.arrayBuffer());
  const at = text.indexOf('{"', text.indexOf("cmt"));
  if (at < 0) return null;
  for (let end = text.indexOf("}", at); end >= 0 && end - at < 20_000; end = text.indexOf("}", end + 1)) {
    try {
      const { parameters, model } = JSON.parse(text.slice(at, end + 1));
      return parameters ? { ...parameters, model: model?.name ?? model } : null;
    } catch {
      // not the end of the object yet
    }
  }
  return null;
}
