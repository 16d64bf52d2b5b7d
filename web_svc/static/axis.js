// The chart's axes: how ticks are written, how wide they are, and where the line has holes.

const HOLE_STEPS = 5; // so many usual steps without a value are a hole, over which no line is drawn

export function tickTimes(splits, span) {
  const second = splits.length > 1 && splits[1] - splits[0] < 60 ? "2-digit" : undefined;
  return splits.map((seconds) => {
    const at = new Date(seconds * 1000);
    if (span >= 86_400 && at.getHours() + at.getMinutes() === 0) return at.toLocaleDateString(undefined, { month: "short", day: "numeric" });
    return at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second, hourCycle: "h23" });
  });
}

export function tickValues(splits) {
  const step = splits.length > 1 ? splits[1] - splits[0] : 1;
  const decimals = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9)));
  return splits.map((split) => split.toLocaleString(undefined, { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
}

/** As wide as the longest number. */
export const sizeY = (_, texts) => Math.max(34, 16 + 7.2 * Math.max(0, ...(texts ?? []).map((text) => text.length)));

/** Where nothing was measured for long, in pixels, together with where values are left out (`known`): as uPlot asks for it. */
export function holes(plot, _series, first, last, known) {
  const at = plot.data[0];
  const steps = [];
  for (let index = first + 1; index <= last; index += 1) steps.push(at[index] - at[index - 1]);
  const longest = HOLE_STEPS * (steps.toSorted((left, right) => left - right)[steps.length >> 1] ?? Infinity);
  const found = [...known];
  steps.forEach((step, index) => {
    if (step > longest) found.push([plot.valToPos(at[first + index], "x", true), plot.valToPos(at[first + index + 1], "x", true)]);
  });
  return found.sort((left, right) => left[0] - right[0]);
}
