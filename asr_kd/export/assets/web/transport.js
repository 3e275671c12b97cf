// How the page reaches a recognizer: here a worker of the browser that runs the model. No audio leaves the page.
// Connections have the members of a websocket and the messages of asr_kd/serve/README.md.

const worker = new Worker("worker.js", { type: "module" });
let current = null;
let started = false;
let broken = null; // why the worker never started: it tells so once, perhaps before anything is connected

worker.onmessage = ({ data }) => {
  started = true;
  current?.take(data);
};
worker.onerror = (event) => {
  const reason = event.message || "The recognizer cannot be loaded: a script is missing, or .mjs is not served as JavaScript.";
  if (!started) broken = reason;
  current?.fail(reason);
};

if ("serviceWorker" in navigator && isSecureContext) navigator.serviceWorker.register("service-worker.js");

class Connection {
  constructor() {
    this.readyState = WebSocket.CONNECTING;
    this.bufferedAmount = 0; // bytes that the worker has not decoded
    current = this;
    if (broken === null) worker.postMessage({ type: "open" });
    else queueMicrotask(() => this.fail(broken));
  }

  send(data) {
    if (typeof data === "string") {
      if (JSON.parse(data).type === "end") worker.postMessage({ type: "end" });
      return;
    }
    this.bufferedAmount += data.byteLength;
    worker.postMessage({ type: "samples", samples: data.slice() });
  }

  close() {
    if (this.readyState === WebSocket.CLOSED) return;
    worker.postMessage({ type: "close" });
    this.end(1000, "");
  }

  take(message) {
    if (message.type === "opened") {
      this.readyState = WebSocket.OPEN;
      this.onopen?.();
    } else if (message.type === "decoded") {
      this.bufferedAmount -= message.bytes;
    } else {
      this.onmessage?.({ data: JSON.stringify(message) });
      if (message.type === "done" || message.type === "error") this.end(1000, "");
    }
  }

  fail(reason) {
    this.onmessage?.({ data: JSON.stringify({ type: "error", code: "internal", message: reason }) });
    this.end(1011, reason);
  }

  end(code, reason) {
    if (current === this) current = null;
    this.readyState = WebSocket.CLOSED;
    queueMicrotask(() => this.onclose?.({ code, reason }));
  }
}

export function connect() {
  return new Connection();
}
