// The API key: whether the service wants one, and the dialog in which it is entered, checked and forgotten.

import { checkKey, currentKey, useKey } from "./api.js";
import { $, announce, element } from "./dom.js";
import { notice } from "./notices.js";

const LABELS = { none: "API key", valid: "API key ✓", rejected: "API key rejected" };

/** `changed()` follows another key, or none. */
export class Keys {
  constructor({ changed }) {
    this.changed = changed;
    $("key-open").addEventListener("click", () => this.open());
    $("key-cancel").addEventListener("click", () => $("key-dialog").close());
    $("key-forget").addEventListener("click", () => this.#use(""));
    $("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#check($("key").value.trim());
    });
  }

  /** The service has answered with this key, or without one. */
  accepted() {
    notice("key", null);
    this.#show(currentKey() ? "valid" : "none");
  }

  /** The service has answered that it wants a key, or another one. */
  required() {
    const rejected = Boolean(currentKey());
    const text = rejected ? "The service does not accept this API key. " : "This service asks for an API key. ";
    notice("key", text, "", element("button", { type: "button", on: { click: () => this.open() } }, "Enter a key"));
    this.#show(rejected ? "rejected" : "none");
  }

  open() {
    if ($("key-dialog").open) return;
    $("key").value = currentKey();
    $("key-forget").hidden = !currentKey();
    this.#fault("");
    $("key-dialog").showModal();
  }

  /** Use a key once the service has accepted it; else the dialog stays open and gives the reason. */
  async #check(key) {
    if (!key) {
      this.#fault("Enter a key.");
      return;
    }
    this.#busy(true);
    try {
      const { required } = await checkKey(key);
      if (required) this.#use(key);
      else this.#fault("This service needs no key: close this and go on.");
    } catch (error) {
      this.#fault(
        error.status === 401
          ? "The service does not accept this key. Check it for missing characters."
          : "The key could not be checked: the service does not answer properly. Try again shortly.",
      );
    } finally {
      this.#busy(false);
    }
  }

  #use(key) {
    useKey(key);
    $("key-dialog").close();
    announce(key ? "The key is accepted." : "The key is forgotten.");
    this.#show(key ? "valid" : "none");
    this.changed();
  }

  #show(state) {
    $("key-open").textContent = LABELS[state];
  }

  #busy(busy) {
    $("key-save").disabled = busy;
    $("key-save").textContent = busy ? "Checking …" : "Use this key";
  }

  #fault(text) {
    $("key-fault").textContent = text;
    $("key").setAttribute("aria-invalid", String(Boolean(text)));
  }
}
