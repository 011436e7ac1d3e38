SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Nothing is told to, or fetched from, anybody else.
  validatorUrl: null,
});
