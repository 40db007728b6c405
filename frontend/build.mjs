// Bundles src/ and styles/ into $STUDIO_STATIC under names that carry their content's hash, and writes manifest.json last.
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.env.STUDIO_STATIC || join(here, "../backend/web/static"));

await mkdir(target, { recursive: true });
const before = await readFile(join(target, "manifest.json"), "utf8").then(JSON.parse, () => ({}));
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.ts", "src/docs.ts", "src/theme.ts", "styles/main.css"],
  outdir: target,
  entryNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "eof",
  metafile: true,
});

const manifest = {};
for (const [path, output] of Object.entries(metafile.outputs)) {
  const name = basename(output.entryPoint).replace(/\.ts$/, ".js");
  manifest[name] = basename(path);
}
const icons = await readFile(join(here, "src/icons.svg"));
const hash = createHash("sha256").update(icons).digest("hex").slice(0, 8);
manifest["icons.svg"] = `icons-${hash}.svg`;
await writeFile(join(target, manifest["icons.svg"]), icons);
await writeFile(join(target, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);

// A server that runs already serves what it read at its start, so the files of the build before this one stay.
const kept = new Set(["manifest.json", ...Object.values(before), ...Object.values(manifest)]);
for (const name of await readdir(target)) {
  if (!kept.has(name)) await rm(join(target, name), { recursive: true });
}
