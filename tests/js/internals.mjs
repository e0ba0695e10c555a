// Call functions of distill.js that it does not export, for the tests in Python.
//
//     node internals.mjs distill.js tasks.json results.json
//
// Tasks are [name of a function below, ...arguments]; bytes are base64.
import { readFileSync, writeFileSync } from "node:fs";

const [source, tasks, results] = process.argv.slice(2);
const internal = ["inflate", "mix", "permutation", "quantile", "read", "stream", "waveHeight", "word"];
const text = `${readFileSync(source, "utf8")}\nexport { ${internal.join(", ")} };`;
const module = await import(`data:text/javascript;base64,${Buffer.from(text).toString("base64")}`);

const decoded = (data) => new Uint8Array(Buffer.from(data, "base64"));
const encoded = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");

const functions = {
  layers: (data) => module.read(decoded(data)).layers.map((arrays) => arrays.map(encoded)),
  quantiles: () => encoded(Float32Array.from({ length: 65536 }, (_, index) => module.quantile(index))),
  waves: (extent) =>
    encoded(
      Float32Array.from({ length: extent ** 2 }, (_, k) =>
        module.waveHeight(Math.floor(k / extent), k % extent, extent),
      ),
    ),
  permutation: (seed, number, count) => Array.from(module.permutation(seed, number, count)),
  words: (keys, count) => {
    const state = module.stream(...keys);
    return Array.from({ length: count }, (_, index) => {
      module.mix(...state, index + 1);
      return Array.from(module.word);
    });
  },
  inflate: (data, length) => {
    try {
      return encoded(module.inflate(decoded(data), length));
    } catch (error) {
      if (error instanceof module.StudentFileError) return null;
      throw error;
    }
  },
};

const run = ([name, ...given]) => functions[name](...given);
writeFileSync(results, JSON.stringify(JSON.parse(readFileSync(tasks, "utf8")).map(run)));
