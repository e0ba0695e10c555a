/** A label as the teacher gave it. Integers are numbers; all are bigint if one of them is beyond 2^53. */
export type Label = number | bigint | string | boolean;

/** Methods of a student; each has those of the teacher that it imitates. */
export type Method = "predict" | "predictProba" | "transform" | "decisionFunction";

/**
 * One row: numbers in the order of the features, in an array or any typed array of numbers, or an object with a number
 * for each feature name.
 */
export type Row =
  | readonly number[]
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Readonly<Record<string, number>>;

/** A row of an interface with a number for each feature name. */
export type Named<T> = { readonly [K in keyof T]: number };

/** Values of one row: a number where the teacher gives a vector for many rows, else one value for each output. */
export type Values = number | Float32Array | Float64Array;

/**
 * A student: a network that predicts as its teacher does.
 *
 * Every method takes one row, or an array of rows, and returns the answer for one, or an array of answers. An array
 * whose first element is a number, a typed array and an object are one row; every other array is an array of rows.
 *
 * A row must have a finite number for each feature, NaN only where the student takes missing values; anything else is a
 * TypeError that names the row and the feature. A method that the student does not have throws an Error.
 */
export interface Student {
  /** Number of features of a row. */
  readonly nFeatures: number;
  /** Number of outputs of the network. */
  readonly nOutputs: number;
  /** Names of the features, null if the file has none. */
  readonly featureNames: readonly string[] | null;
  /** Labels in the order of the probabilities, null if the student predicts none. */
  readonly classes: readonly Label[] | null;
  /** The methods that do not throw. */
  readonly methods: readonly Method[];

  /** The label, or the values of a regression. */
  predict(row: Row): Label | Values;
  predict(rows: readonly Row[]): Array<Label | Values>;
  predict(rows: Row | readonly Row[]): Label | Values | Array<Label | Values>;
  predict<T extends object & Named<T>>(row: T): Label | Values;
  predict<T extends object & Named<T>>(rows: readonly T[]): Array<Label | Values>;

  /** The probability of every label, in the order of `classes`. */
  predictProba(row: Row): Float32Array;
  predictProba(rows: readonly Row[]): Float32Array[];
  predictProba(rows: Row | readonly Row[]): Float32Array | Float32Array[];
  predictProba<T extends object & Named<T>>(row: T): Float32Array;
  predictProba<T extends object & Named<T>>(rows: readonly T[]): Float32Array[];

  /** The embedding. */
  transform(row: Row): Values;
  transform(rows: readonly Row[]): Values[];
  transform(rows: Row | readonly Row[]): Values | Values[];
  transform<T extends object & Named<T>>(row: T): Values;
  transform<T extends object & Named<T>>(rows: readonly T[]): Values[];

  /** Decision values. */
  decisionFunction(row: Row): Values;
  decisionFunction(rows: readonly Row[]): Values[];
  decisionFunction(rows: Row | readonly Row[]): Values | Values[];
  decisionFunction<T extends object & Named<T>>(row: T): Values;
  decisionFunction<T extends object & Named<T>>(rows: readonly T[]): Values[];
}

/** The bytes are not a student file that this version can read; the message names the reason. */
export class StudentFileError extends Error {
  readonly name: "StudentFileError";
}

/**
 * Read a student from the bytes of a student file.
 *
 * @param bytes The whole file.
 * @throws {StudentFileError} If the bytes are damaged, cut, of another format version, or no student file.
 * @throws {TypeError} If `bytes` is something else, such as a promise.
 */
export function load(bytes: ArrayBuffer | Uint8Array): Student;
