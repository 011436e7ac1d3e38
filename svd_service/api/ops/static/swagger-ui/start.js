// Swagger UI on our document. What is sent by "Try it out" is what a person enters: see `prepared`.

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

/**
 * The document with an empty example for each optional field of a form. Without one, Swagger UI makes values up (`string`,
 * each bound's lowest number) and sends them, although the service has better defaults.
 */
function prepared(document) {
  for (const path of Object.values(document.paths)) {
    for (const operation of Object.values(path)) {
      const form = operation.requestBody?.content["multipart/form-data"];
      if (form) empty(schemaOf(document, form.schema));
    }
  }
  return document;
}

const schemaOf = (document, schema) => (schema.$ref ? document.components.schemas[schema.$ref.split("/").pop()] : schema);

function empty(schema) {
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    if (!schema.required?.includes(name)) field.example = "";
  }
}

/** What Swagger UI leaves out for people without a mouse or a screen: names of controls, and focus for what scrolls. */
function named() {
  for (const block of document.querySelectorAll(".swagger-ui pre:not([tabindex])")) block.tabIndex = 0;
  const unnamed = ".swagger-ui :is(select, input, textarea):not([aria-label], [aria-labelledby], [type=submit])";
  for (const control of document.querySelectorAll(unnamed)) {
    if (control.id === "servers") control.setAttribute("aria-label", "Server"); // its label is empty
    if (control.labels?.length) continue;
    const row = control.closest("[data-param-name], [data-property-name], .parameters, tr, .opblock-section");
    const name = row?.dataset.paramName ?? row?.dataset.propertyName ?? row?.querySelector(".parameter__name")?.textContent;
    control.setAttribute("aria-label", name ?? control.placeholder ?? "Value");
  }
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  syntaxHighlight: { activated: false }, // its colors have too little contrast
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  responseInterceptor(response) {
    if (response.url.endsWith("openapi.json") && response.ok) {
      const document = prepared(JSON.parse(response.text));
      response.text = response.data = JSON.stringify(document);
      response.obj = response.body = document;
    }
    return response;
  },
  onComplete() {
    named();
    new MutationObserver(named).observe(window.document.body, { childList: true, subtree: true });
  },
  // The page sends no request to another host.
  validatorUrl: null,
});
