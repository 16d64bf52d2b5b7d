// The one stream from the server: opens it, hears when it falls silent, and opens it again.

const SILENT_MS = 12_000;
const LONGEST_PAUSE_MS = 8_000;

/** Calls `hear(frame)` for each frame and `say(state, text)` when the connection changes: "live", "connecting" or "away". */
export function follow(hear, say) {
  let source = null;
  let pauseMs = 500;
  let watchdog = 0;
  let wake = 0;

  function open() {
    clearTimeout(wake);
    source = new EventSource("live");
    source.onmessage = (event) => {
      pauseMs = 500;
      patient();
      hear(JSON.parse(event.data));
      say("live", "live");
    };
    source.addEventListener("refused", (event) => again(event.data));
    source.addEventListener("closing", () => again("the page's server has stopped; trying again"));
    source.onerror = () => again("the page's server does not answer; trying again");
    patient();
  }

  function patient() {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => again("nothing was heard for 12 s; trying again"), SILENT_MS);
  }

  function again(why) {
    clearTimeout(watchdog);
    clearTimeout(wake);
    source.close();
    say("away", why);
    wake = setTimeout(open, pauseMs * (0.5 + Math.random()));
    pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
  }

  say("connecting", "connecting");
  open();
}
