// Building pieces of the page. Text is only ever set as text, so nothing from a file or the service becomes markup.

export const $ = (id) => document.getElementById(id);

/** An element; `properties` are set as such, but for `class`, `on` (listeners) and names with a dash (attributes). */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key === "on") for (const [event, action] of Object.entries(value)) made.addEventListener(event, action);
    else if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Report a change to screen readers. */
export function announce(text) {
  const announcer = $("announcer");
  // A screen reader is silent about a text that is the same as before.
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

const hiding = new WeakMap();

/** Report what was done, where it was done: in a line of its own, for ten seconds. It covers nothing. */
export function report(line, text) {
  announce(text);
  line.textContent = text;
  line.hidden = !text;
  clearTimeout(hiding.get(line));
  hiding.set(line, setTimeout(() => (line.hidden = true), 10_000));
}
