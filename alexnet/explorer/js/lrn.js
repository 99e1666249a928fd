// Local response normalization, section 3.3 of the paper.

/**
 * Divide each value by (k + alpha * the sum of the squares of its neighbors) ** beta.
 *
 * The neighbors are the maps at most n / 2 apart, at the same place and in the same column.
 * Returns the normalized values and what each was divided by.
 */
export function normalise(values, maps, { n, k, alpha, beta, columns }) {
  const size = values.length / maps;
  const result = new Float32Array(values.length);
  const divisors = new Float32Array(values.length);
  for (let map = 0; map < maps; map++) {
    const [first, last] = neighboursOf(map, maps, n, columns);
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let other = first; other <= last; other++) sum += values[other * size + i] ** 2;
      const at = map * size + i;
      divisors[at] = (k + alpha * sum) ** beta;
      result[at] = values[at] / divisors[at];
    }
  }
  return { result, divisors };
}

/** The first and the last neighbor of a map: never one of the other column. */
export function neighboursOf(map, maps, n, columns) {
  const perColumn = maps / columns;
  const start = Math.floor(map / perColumn) * perColumn;
  const half = Math.floor(n / 2);
  return [Math.max(start, map - half), Math.min(start + perColumn - 1, map + half)];
}
