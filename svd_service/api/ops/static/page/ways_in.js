// The ways in which files reach the page: chosen, photographed, pasted, dropped. All of them end in the same call.

import { $ } from "./dom.js";

/** Calls `add(files)`, or `rejected([[name, reason]])` where there is no file. */
export function listen({ add, rejected }) {
  for (const id of ["files", "photo"]) {
    $(id).addEventListener("change", (event) => {
      add([...event.target.files]);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) add([...event.clipboardData.files]);
    else if (!event.target.closest?.("input, textarea")) rejected([["Clipboard", "It holds no image file."]]);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("composer").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("composer").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("composer").classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) add(files);
    else rejected([["Dropped item", "It is not a file. Save an image of another page first, then add the file."]]);
  });
}
