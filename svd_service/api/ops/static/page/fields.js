// The rows of the form, built from the settings' descriptions (options.js): a friendly name, the API's name, a control.

import { element } from "./dom.js";

const api = (name) => element("code", { class: "api", title: "Name in the API" }, name);

/** A row: label, the API's name, what the value means in words, the control and a hint. */
export function row(name, label, { hint, readout = false } = {}, ...controls) {
  const help = hint ? element("p", { class: "hint", id: `${name}-help` }, hint) : null;
  const words = readout ? element("output", { id: `${name}-readout`, htmlFor: name }) : null;
  const head = element("div", { class: "head" }, element("label", { htmlFor: name }, label), api(name), words);
  return element("div", { class: "field", id: `${name}-field` }, head, ...controls, help);
}

const describe = (control, name, hint) => {
  if (hint) control.setAttribute("aria-describedby", `${name}-help`);
  return control;
};

/** A slider with a box in which its number can be typed. */
export function slider({ name, label, min, max, step = 1, hint, readout, ends }) {
  const range = describe(element("input", { type: "range", id: name, name, min, max, step }), name, hint);
  const number = element("input", { type: "number", id: `${name}-number`, min, max, step, inputMode: "decimal" });
  number.setAttribute("aria-label", `${label}, as a number`);
  range.addEventListener("input", () => (number.value = range.value));
  number.addEventListener("input", (event) => {
    event.stopPropagation(); // the slider reports it, within its limits
    if (number.value === "" || !number.checkValidity()) return;
    range.value = number.value;
    range.dispatchEvent(new Event("input", { bubbles: true }));
  });
  // What is out of limits goes to the nearest value when the box is left.
  number.addEventListener("change", (event) => {
    event.stopPropagation();
    if (number.value !== "") range.value = number.value;
    number.value = range.value;
    range.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const scale = ends && element("p", { class: "ends", "aria-hidden": "true" }, ...ends.map((end) => element("span", {}, end)));
  return row(name, label, { hint, readout }, element("div", { class: "slide" }, range, number), scale ?? null);
}

/** Set a slider's value, and with `bounds` its limits. */
export function slide(name, value, bounds) {
  const [range, number] = [document.getElementById(name), document.getElementById(`${name}-number`)];
  if (bounds) for (const control of [range, number]) Object.assign(control, { min: bounds[0], max: bounds[1] });
  if (value !== undefined) range.value = value;
  number.value = range.value;
}

/** A box for a whole number, which may stay empty. */
export function box({ name, label, min, max, hint, placeholder }) {
  const input = element("input", { type: "number", id: name, name, min, max, step: 1, inputMode: "numeric", placeholder });
  return row(name, label, { hint }, describe(input, name, hint));
}

/** A list to choose from; `options` maps values to texts. */
export function list({ name, label, options, hint }, ...more) {
  const texts = Object.entries(options).map(([value, text]) => element("option", { value }, text));
  return row(name, label, { hint }, describe(element("select", { id: name, name }, ...texts), name, hint), ...more);
}

/** A few choices side by side; `options` maps values to texts. */
export function choices({ name, label, options, hint, shown = name }) {
  const radios = Object.entries(options).map(([value, text], place) =>
    element(
      "label",
      {},
      element("input", { type: "radio", name, value, checked: place === 0, defaultChecked: place === 0 }),
      element("span", {}, text),
    ),
  );
  const legend = element("legend", {}, label, " ", shown ? api(shown) : "");
  const group = element("fieldset", { class: "field choices", id: name }, legend, element("div", { class: "segments" }, ...radios));
  if (hint) group.append(element("p", { class: "hint", id: `${name}-help` }, hint));
  return describe(group, name, hint);
}

/** The chosen value of `choices`. */
export const chosen = (name) => document.querySelector(`#${name} :checked`)?.value;

export function choose(name, value) {
  for (const radio of document.querySelectorAll(`#${name} input`)) radio.checked = radio.value === String(value);
}

/** Boxes to tick; `options` maps values to texts. */
export function checks({ name, label, options, hint }) {
  const boxes = Object.entries(options).map(([value, text]) =>
    element("label", { class: "check" }, element("input", { type: "checkbox", name, value }), text),
  );
  const group = element("fieldset", { class: "field choices", id: name }, element("legend", {}, label, " ", api(name)));
  group.append(element("div", { class: "row" }, ...boxes));
  if (hint) group.append(element("p", { class: "hint", id: `${name}-help` }, hint));
  return describe(group, name, hint);
}

export const ticked = (name) => [...document.querySelectorAll(`#${name} :checked`)].map(({ value }) => value);

export function tick(name, values) {
  for (const one of document.querySelectorAll(`#${name} input`)) one.checked = values.includes(one.value);
}
