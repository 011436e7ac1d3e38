// A press that has to be confirmed: the same button, in place and red, asks once more.

import { announce } from "./dom.js";

/** Milliseconds until an unconfirmed press is forgotten. */
const PATIENCE = 5000;

/** The listener of a button that asks `question()` before `action()`; `name` names the object for screen readers. */
export function confirmed(action, { text, question, name }) {
  let armed = 0;
  const show = (button, shown) => {
    button.textContent = shown;
    button.classList.toggle("armed", Boolean(armed));
    button.setAttribute("aria-label", `${shown.replace("?", "")}: ${name()}`);
  };
  return ({ currentTarget: button }) => {
    if (armed) {
      clearTimeout(armed);
      armed = 0;
      show(button, text);
      action();
      return;
    }
    armed = setTimeout(() => {
      armed = 0;
      show(button, text);
    }, PATIENCE);
    show(button, question);
    announce(`Press again to confirm: ${question} ${name()}`);
  };
}
