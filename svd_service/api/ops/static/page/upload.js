// Sending a form with its progress. fetch cannot report how much of a body is sent; XMLHttpRequest can.

/**
 * The response to a POST of `body`. `progress(share)` is called with 0 to 1 as it is sent; raises AbortError once `signal` is
 * aborted, and TypeError, as fetch does, where there is no response.
 */
export function upload(path, body, headers, { signal, progress }) {
  const request = new XMLHttpRequest();
  request.open("POST", path);
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  return new Promise((resolve, reject) => {
    const aborted = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    request.upload.onprogress = ({ loaded, total }) => progress(total ? loaded / total : 0);
    request.upload.onload = () => progress(1);
    request.onload = () => resolve(answer(request));
    request.onerror = () => reject(new TypeError("no response"));
    request.onabort = aborted;
    if (signal?.aborted) return aborted();
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

function answer(request) {
  const headers = new Headers();
  const wait = request.getResponseHeader("Retry-After");
  if (wait) headers.set("Retry-After", wait);
  return new Response(request.responseText, { status: request.status, statusText: request.statusText, headers });
}
