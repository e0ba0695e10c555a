// Print the bytes of distill.js, and of the module that a page loads: minified, and compressed for its way to the page.
//
//     node size.mjs [FILE [SCRIPT]]
//
// FILE: where to write the minified module. SCRIPT: where to write it as a script that defines `distill`, for pages that
// are opened from a disk and may not load modules.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { minify } from "terser";

const source = readFileSync(new URL("distill.js", import.meta.url), "utf8");
// A twentieth smaller than what esbuild makes
const options = () => ({ ecma: 2022, compress: { passes: 2 } }); // a new one each time: minify writes to it
const { code } = await minify(source, { ...options(), module: true });
const bytes = Buffer.from(code);
const [file, script] = process.argv.slice(2);
if (file) writeFileSync(file, bytes);
if (script) {
  const names = [...source.matchAll(/^export (?:class|function) (\w+)/gm)].map((found) => found[1]);
  const inner = source.replaceAll(/^export /gm, "");
  const wrapped = `const distill = (() => { ${inner}\nreturn { ${names.join(", ")} }; })();`;
  const made = await minify(wrapped, options());
  const hash = createHash("sha256").update(source).digest("hex");
  writeFileSync(script, `// js/distill.js, minified by make web; SHA-256 of the source: ${hash}\n${made.code}\n`);
}
console.log(
  JSON.stringify({
    source: Buffer.byteLength(source),
    minified: bytes.length,
    gzip: gzipSync(bytes, { level: 9 }).length,
    brotli: brotliCompressSync(bytes).length,
  }),
);
