// How long after it was measured is a value on the screen? A ring that never grows; tests read it as window.__painted.

const SIZE = 8192;
const LATELY_MS = 30_000;
const ring = [];
let next = 0;

/** Notes readings ([sensor_id, measured_us, ...]) whose cells were just written: painted by the time of the frame after this one. */
export function notePainted(readings, receivedMs) {
  requestAnimationFrame(() => {
    const paintedMs = Date.now();
    for (const [sensor, measuredUs] of readings) {
      ring[next] = { sensor, measured_us: measuredUs, received_ms: receivedMs, painted_ms: paintedMs };
      next = (next + 1) % SIZE;
    }
  });
}

/** The middle delay of the last readings, in seconds; null where none was painted within 30 s. */
export function middleDelay(aheadMs) {
  const delays = [];
  for (let back = 1; back <= Math.min(200, ring.length); back += 1) {
    const one = ring[(next - back + SIZE) % SIZE];
    if (one && one.painted_ms > Date.now() - LATELY_MS) delays.push((one.painted_ms + aheadMs - one.measured_us / 1000) / 1000);
  }
  return delays.length ? delays.sort((left, right) => left - right)[delays.length >> 1] : null;
}

window.__painted = ring;
