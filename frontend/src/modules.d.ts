declare module "htmx.org/dist/htmx.esm.js" {
  type Extension = { init(api: { initSecurity(policy: unknown): void }): void };
  const htmx: { registerExtension(name: string, extension: Extension): void };
  export default htmx;
}
