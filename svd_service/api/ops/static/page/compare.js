// Variations of one image: beside each other, playing together, and one of them large.

import { $, element } from "./dom.js";
import { phrase, values } from "./words.js";

/** Columns in which videos leave no gaps and are all seen at once on a wide screen; upright ones need less width. */
function columns(cards) {
  const upright = cards.every(({ job: { video } }) => video.output_height > video.output_width);
  if (upright) return Math.min(cards.length, 4);
  return cards.length < 4 ? cards.length : Math.ceil(cards.length / 2);
}

/** `cards` are the gallery's; `use(card)` takes one's settings into the composer. */
export class Compare {
  #use;

  constructor({ use }) {
    this.#use = use;
    $("compare-close").addEventListener("click", () => $("compare").close());
    $("compare-restart").addEventListener("click", () => this.#together());
    $("compare").addEventListener("close", () => $("compare-videos").replaceChildren());
  }

  async open(cards) {
    $("compare-title").textContent = cards.length === 1 ? cards[0].name : `${cards.length} videos of ${cards[0].name}`;
    $("compare").classList.toggle("single", cards.length === 1);
    const across = columns(cards);
    $("compare-videos").style.setProperty("--columns", across);
    $("compare-videos").style.setProperty("--rows", Math.ceil(cards.length / across));
    $("compare-videos").replaceChildren(...cards.map((card, place) => this.#figure(card, place, cards.length)));
    $("compare").showModal();
    await Promise.all(cards.map((card, place) => this.#load(card, place)));
    this.#together();
  }

  #figure(card, place, count) {
    const name = `${card.name}, ${values(card.job.parameters)}`;
    const video = element("video", { muted: true, loop: true, playsInline: true, "aria-label": name });
    const { output_width: width, output_height: height } = card.job.video;
    video.style.setProperty("--shape", width / height);
    const enlarge = element(
      "button",
      { type: "button", class: "quiet", "aria-pressed": "false", on: { click: (e) => this.#enlarge(e.target, place) } },
      "Enlarge",
    );
    const use = element("button", { type: "button", class: "quiet", on: { click: () => this.#take(card) } }, "Change");
    enlarge.setAttribute("aria-label", `Enlarge: ${name}`);
    use.setAttribute("aria-label", `Change: ${name}`);
    const state = card.job.status === "finished" ? null : element("p", { class: "hint" }, phrase(card.job));
    return element(
      "figure",
      {},
      video,
      element("figcaption", {}, values(card.job.parameters)),
      state,
      element("div", { class: "row" }, count > 1 ? enlarge : null, card.record ? use : null),
    );
  }

  async #load(card, place) {
    if (card.job.status !== "finished") return;
    const source = await card.source();
    const video = $("compare-videos").children[place]?.querySelector("video");
    if (video) video.src = source;
  }

  /** Start all of them at the same frame. */
  #together() {
    for (const video of $("compare-videos").querySelectorAll("video[src]")) {
      video.currentTime = 0;
      video.play().catch(() => {}); // a browser may ask for a click first
    }
  }

  #enlarge(pressed, place) {
    const large = pressed.getAttribute("aria-pressed") !== "true";
    pressed.setAttribute("aria-pressed", String(large));
    pressed.textContent = large ? "Show all" : "Enlarge";
    $("compare").classList.toggle("single", large);
    [...$("compare-videos").children].forEach((figure, other) => (figure.hidden = large && other !== place));
  }

  #take(card) {
    $("compare").close();
    this.#use(card.record, card.job);
  }
}
