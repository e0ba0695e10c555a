// Print the bytes of distill.js, and of the module that a page loads: minified, and compressed for its way to the page.
//
//     node size.mjs [FILE]      FILE: where to write the minified module
import { readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { transformSync } from "esbuild";

const source = readFileSync(new URL("distill.js", import.meta.url), "utf8");
const { code } = transformSync(source, { minify: true, format: "esm", target: "es2022" });
const bytes = Buffer.from(code);
if (process.argv[2]) writeFileSync(process.argv[2], bytes);
console.log(
  JSON.stringify({
    source: Buffer.byteLength(source),
    minified: bytes.length,
    gzip: gzipSync(bytes, { level: 9 }).length,
    brotli: brotliCompressSync(bytes).length,
  }),
);
