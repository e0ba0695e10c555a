// Strokes of a pen -> pixels as in the training images. A plain script without dependencies, for the page and its tests.
//
// Images of MNIST are black and white digits that were scaled, with their aspect ratio, into a box of 20 x 20 pixels with
// gray values, and placed in 28 x 28 pixels with their center of mass at pixel (14, 14), counted from 0. `prepare` does this
// with strokes: their size and place on the canvas have no influence, and the line has the same width in pixels whatever the
// size of the drawing.

const drawing = (() => {
  // A drawing smaller than this part of the canvas is not enlarged further, so that a dot stays a dot
  const SMALLEST = 0.1;

  // Return the size of digits and of the line for images of `height` x `width` pixels with values from `low` to `high`.
  function imageForm(height, width, low, high) {
    const side = Math.min(height, width);
    // MNIST, and images of a size like it, have a margin and are centered by mass. Smaller ones, such as the 8 x 8 digits of
    // scikit-learn, fill the image. With these line widths drawn digits have as much ink as those of both sets
    const byMass = side >= 20;
    const box = byMass ? 20 / 28 : 1;
    return { height, width, low, high, byMass, boxHeight: box * height, boxWidth: box * width,
      lineWidth: side * (byMass ? 2.75 / 28 : 1.4 / 8) };
  }

  // Return the fraction of each pixel that lines of a width cover, row by row. A stroke is [x, y, x, y, ...] in pixels.
  function cover(strokes, height, width, lineWidth) {
    const reach = lineWidth / 2 + 0.5;
    const near = new Float64Array(height * width).fill(Infinity); // squared distance from the next line
    for (const stroke of strokes) {
      for (let k = 0; k === 0 || k + 3 < stroke.length; k += 2) {
        const x = stroke[k], y = stroke[k + 1];
        // A stroke of a single point is a dot
        const dx = stroke.length > 2 ? stroke[k + 2] - x : 0, dy = stroke.length > 2 ? stroke[k + 3] - y : 0;
        const length = dx * dx + dy * dy;
        const top = Math.max(0, Math.floor(Math.min(y, y + dy) - reach - 0.5));
        const bottom = Math.min(height - 1, Math.ceil(Math.max(y, y + dy) + reach - 0.5));
        const left = Math.max(0, Math.floor(Math.min(x, x + dx) - reach - 0.5));
        const right = Math.min(width - 1, Math.ceil(Math.max(x, x + dx) + reach - 0.5));
        for (let i = top; i <= bottom; i++) {
          for (let j = left; j <= right; j++) {
            const px = j + 0.5 - x, py = i + 0.5 - y;
            const t = length > 0 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
            const distance = (px - t * dx) ** 2 + (py - t * dy) ** 2;
            if (distance < near[i * width + j]) near[i * width + j] = distance;
          }
        }
      }
    }
    return near.map((distance) => Math.min(1, Math.max(0, reach - Math.sqrt(distance))));
  }

  // Return the pixels of strokes, whose coordinates may have any unit that `unit`, the side of the canvas, has too.
  function prepare(strokes, form, unit = 1) {
    const { height, width, low, high } = form;
    const drawn = strokes.filter((stroke) => stroke.length);
    let values = new Float64Array(height * width);
    if (drawn.length) {
      const xs = drawn.flatMap((stroke) => stroke.filter((_, k) => k % 2 === 0));
      const ys = drawn.flatMap((stroke) => stroke.filter((_, k) => k % 2 === 1));
      const bounds = (numbers) => numbers.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)],
        [Infinity, -Infinity]);
      const [left, right] = bounds(xs), [top, bottom] = bounds(ys);
      const scale = Math.min((form.boxWidth - form.lineWidth) / Math.max(right - left, SMALLEST * unit),
        (form.boxHeight - form.lineWidth) / Math.max(bottom - top, SMALLEST * unit));
      const place = (x0, y0) => drawn.map((stroke) => stroke.map((value, k) => k % 2
        ? (value - (top + bottom) / 2) * scale + y0 : (value - (left + right) / 2) * scale + x0));
      values = cover(place(width / 2, height / 2), height, width, form.lineWidth);
      if (form.byMass) {
        let mass = 0, x = 0, y = 0;
        values.forEach((value, k) => {
          mass += value;
          x += value * ((k % width) + 0.5);
          y += value * (Math.floor(k / width) + 0.5);
        });
        values = cover(place(width + 0.5 - x / mass, height + 0.5 - y / mass), height, width, form.lineWidth);
      }
    }
    return Array.from(values, (value) => Math.fround(low + (high - low) * value));
  }

  return { imageForm, cover, prepare };
})();
