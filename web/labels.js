/** A number's label; where the number is 0, with the model's own value: "steps: 20 (model)". */
export function labelled(label, value, own) {
  return value === 0 && Number.isFinite(own) ? `${label}: ${Number(own.toFixed(2))} (model)` : label
}
