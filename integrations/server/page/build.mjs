// Bundles editor.js with CodeMirror into one file that the service hands out, and its licences beside it.
import { build } from "esbuild";
import { readFileSync, writeFileSync, existsSync, readdirSync } from "node:fs";

const out = "../../../src/policyguard/server/page/";
const made = await build({
  entryPoints: ["editor.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  metafile: true,
  banner: { js: "// Built from integrations/server/page; licences in editor.LICENCES.txt" },
  outfile: `${out}editor.js`,
});

const packages = new Set(
  Object.keys(made.metafile.inputs)
    .map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1])
    .filter(Boolean),
);
const licences = [...packages].sort().map((name) => {
  const folder = `node_modules/${name}/`;
  const { version, license } = JSON.parse(readFileSync(`${folder}package.json`, "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  if (!file || !existsSync(folder + file)) throw new Error(`${name} has no licence file`);
  return `${name} ${version} (${license})\n\n${readFileSync(folder + file, "utf8").trim()}\n`;
});
writeFileSync(`${out}editor.LICENCES.txt`, licences.join(`\n${"-".repeat(72)}\n\n`));
console.log(`${packages.size} packages, ${Object.values(made.metafile.outputs)[0].bytes} bytes`);
