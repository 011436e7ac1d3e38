// The notices above the composer: each condition has one, by name, and it goes when the condition does.

import { $, element } from "./dom.js";

const notices = new Map();

/** Show a notice under a name, or take it away where there is no text. */
export function notice(name, text, kind = "", action = null) {
  if (notices.get(name)?.text === (text || undefined)) return;
  notices.get(name)?.shown.remove();
  notices.delete(name);
  if (text) {
    const shown = element("p", { class: `notice ${kind}`, role: "status" }, text, action);
    notices.set(name, { text, shown });
    $("notices").append(shown);
  }
  $("notices").hidden = notices.size === 0;
}
