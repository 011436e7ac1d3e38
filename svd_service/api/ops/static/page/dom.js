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

/** Tell people who do not see the page what has changed. */
export function announce(text) {
  const announcer = $("announcer");
  // A screen reader is silent about a text that is the same as before.
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

let hiding = 0;

/** A short word to those who see the page, and to those who do not. */
export function toast(text) {
  announce(text);
  $("toast").textContent = text;
  $("toast").classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => $("toast").classList.remove("shown"), 3500);
}
