// What is new, as server-sent events; and what both pages do with texts.

const RETRY_MS = 10_000;
const state = document.getElementById("state");

/** Call onNews with each event's JSON, for as long as the page is looked at. */
export function listen(path, mark, onNews) {
  let source = null;
  let retry = 0;
  let seen = mark;

  function say(word) {
    // Readers are told when it changes, and not each second.
    if (state.dataset.state !== word) {
      state.dataset.state = word;
      state.textContent = word;
    }
  }

  function connect() {
    clearTimeout(retry);
    source = new EventSource(seen ? `${path}?since=${encodeURIComponent(seen)}` : path);
    source.onmessage = (event) => {
      say("live");
      seen = event.lastEventId || seen;
      onNews(JSON.parse(event.data));
    };
    source.onerror = () => {
      say("reconnecting");
      // A browser tries again by itself, unless it was answered with an error.
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
    };
  }

  function rest() {
    clearTimeout(retry);
    source?.close();
  }

  // A page that nobody sees takes no place from one that somebody does.
  document.addEventListener("visibilitychange", () => {
    rest();
    if (!document.hidden) connect();
  });
  addEventListener("pagehide", rest);
  addEventListener("pageshow", (event) => event.persisted && connect());
  if (!document.hidden) connect();
}

/** Set a text, unless it is there already: what does not change is not laid out again. */
export function put(node, text) {
  if (node && node.textContent !== text) node.textContent = text;
}

/** Fill a bar up to a width in percent. */
export function widen(svg, width) {
  svg.firstElementChild.setAttribute("width", `${width}%`);
}

/** Give a bar the colour of an action; "none" beside it where there is no limit, and so no bar. */
export function paint(svg, action) {
  svg.setAttribute("class", `bar ${action}`);
}
