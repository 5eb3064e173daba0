// MaxSim, one query vector per step: what each finds, and the sum so far.

/** { picks, sums }: each row's maximum as { column, value }, and the sum after 0, 1, ... rows. */
export function scanRows(similarities) {
  const picks = similarities.map((row) => {
    const value = Math.max(...row);
    return { column: row.indexOf(value), value };
  });
  const sums = [0];
  for (const { value } of picks) sums.push(sums.at(-1) + value);
  return { picks, sums };
}

/** Two decimals, and no minus before a zero. */
export const two = (value) => value.toFixed(2).replace(/^-(?=0\.00$)/, "");

/** What has happened at a step, in a sentence or two. */
export function describeStep({ query_labels, candidate_labels }, { picks, sums }, step) {
  if (!step) {
    return "Each query vector looks for its most similar candidate vector. Press Play or Step.";
  }
  const { column, value } = picks[step - 1];
  const sum = step === picks.length
    ? `The sum of the maxima is the MaxSim score, ${two(sums[step])}.`
    : `Sum so far ${two(sums[step])}.`;
  return `${query_labels[step - 1]}: the largest of ${candidate_labels.length} similarities is ` +
    `${two(value)}, at ${candidate_labels[column]}. ${sum}`;
}
