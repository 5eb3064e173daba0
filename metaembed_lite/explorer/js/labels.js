// A place for a label next to a point, where no line strikes it through.

const HEIGHT = 14; // pixels of a label's line
const GAPS = [9, 6, 16, 24]; // pixels between the point and its label
const DIRECTIONS = [ // right and down, the preferred one first
  [-1, -1], [1, 1], [-1, 0], [1, 0], [0, -1], [0, 1], [-1, 1], [1, -1],
  [-0.5, -1], [0.5, 1], [0.5, -1], [-0.5, 1],
];

/**
 * The first free place around a point: { x, y, box } with the text's start and baseline. Without a
 * free place, the one that the fewest things cross.
 *
 * bounds: { left, right, top, bottom } of the plot. taken: boxes [left, top, right, bottom]. lines:
 * lists of points.
 */
export function placeLabel([px, py], width, { bounds, taken, lines }) {
  const places = GAPS.flatMap((gap) => DIRECTIONS.map(([across, down]) => {
    const left = px + across * (gap + width / 2) - width / 2;
    const top = py + down * (gap + HEIGHT / 2) - HEIGHT / 2;
    return [left, top, left + width, top + HEIGHT];
  }));
  const inside = ([left, top, right, bottom]) => left >= bounds.left - 1 && top >= bounds.top &&
    right <= bounds.right + 1 && bottom <= bounds.bottom;
  const crossings = (box) => (inside(box) ? 0 : 10) +
    taken.filter((other) => overlap(box, other)).length +
    lines.filter((line) => line.some((to, i) => i && crosses(line[i - 1], to, box))).length;
  const counts = places.map(crossings);
  const box = places[counts.indexOf(Math.min(...counts))];
  return { x: box[0], y: box[3] - 3, box };
}

const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

/** Whether a segment enters a box: what remains of it after clipping at the four sides. */
export function crosses([x0, y0], [x1, y1], [left, top, right, bottom]) {
  let [from, to] = [0, 1];
  const sides = [[x0, x1 - x0, left, right], [y0, y1 - y0, top, bottom]];
  for (const [start, change, low, high] of sides) {
    if (change === 0) {
      if (start <= low || start >= high) return false;
      continue;
    }
    const [a, b] = [(low - start) / change, (high - start) / change];
    from = Math.max(from, Math.min(a, b));
    to = Math.min(to, Math.max(a, b));
  }
  return from < to;
}
