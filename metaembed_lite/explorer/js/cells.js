// Which cells of a candidate's image show what the query names.

/**
 * What a query names, on one candidate: [{ name, has, place }]. `place` is the cell that shows it,
 * or the one that should, or null if no cell is meant. Null if the candidate has no cells.
 */
export function matchCells(cells, query, candidate, relevant) {
  const shown = cells?.contents[candidate];
  if (!shown) return null;
  return cells.named[query].map(({ name, content, place }) => {
    if (place !== null) return { name, has: shown[place] === content, place };
    const found = shown.indexOf(content);
    if (found >= 0) return { name, has: true, place: found };
    return { name, has: false, place: replacedPlace(cells, shown, content, relevant) };
  });
}

/** Where a hard negative, one cell away from a relevant candidate, has another content instead. */
function replacedPlace(cells, shown, content, relevant) {
  for (const candidate of relevant) {
    const right = cells.contents[candidate];
    if (right?.length !== shown.length) continue;
    const different = right.flatMap((other, place) => (other === shown[place] ? [] : [place]));
    if (different.length === 1 && right[different[0]] === content) return different[0];
  }
  return null;
}

/** "has kiwi fruit, violin; misses ghost", for screen readers. */
export function describeMatch(facts) {
  const list = (has) => facts.filter((fact) => fact.has === has).map(({ name }) => name).join(", ");
  return [list(true) && `has ${list(true)}`, list(false) && `misses ${list(false)}`]
    .filter(Boolean).join("; ");
}
