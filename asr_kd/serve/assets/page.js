// Press, speak, and watch partial words turn final. The protocol is described in asr_kd/serve/README.md.

import * as transport from "./transport.js";

const RATE = 16000;
const FILE_PACKET = 16000; // samples: a second
const MOST_BUFFERED = 262144; // bytes that wait in the browser; a file waits before it sends more
const UNSURE = 0.6;
const REMEMBERED = 60; // answer times in the trace

const $ = (id) => document.getElementById(id);
let live = null; // the stream that is open
let opening = false; // one that is being opened: the browser may ask for the microphone first

class Stream {
  constructor(kind) {
    this.kind = kind; // "listening" or "reading"
    this.sent = 0; // samples
    this.log = []; // [samples sent, when], for answer times
    this.answers = [];
    this.began = performance.now();
    this.socket = transport.connect();
    this.socket.binaryType = "arraybuffer";
    this.ready = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.closed = new Promise((resolve) => (this.socket.onclose = (event) => { this.end(event); resolve(); }));
    this.socket.onopen = () => {
      const token = sessionStorage.getItem("token");
      this.socket.send(JSON.stringify({ type: "start", sample_rate: RATE, encoding: "s16le", ...(token && { token }) }));
    };
    this.socket.onmessage = (event) => this.hear(JSON.parse(event.data));
  }

  send(samples) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(samples);
    this.sent += samples.length;
    this.log.push([this.sent, performance.now()]);
  }

  finish() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "end" }));
  }

  hear(message) {
    if (message.type === "ready") {
      this.lookahead = message.lookahead_ms / 1000;
      this.chunk = message.chunk_ms / 1000;
      $("model").textContent = message.model;
      $("chunk").textContent = `${message.chunk_ms} + ${message.lookahead_ms} ms`;
      this.resolve();
    } else if (message.type === "partial") {
      this.measure(message.decoded);
      show(message.text);
    } else if (message.type === "final") {
      settle(message);
    } else if (message.type === "stopping") {
      state(this.kind, "the server stops soon");
    } else if (message.type === "error") {
      this.error = message;
    } else if (message.type === "done") {
      this.done = true;
    }
  }

  // From when a chunk was complete here until its text came back.
  measure(decoded) {
    const needed = (decoded + this.lookahead) * RATE;
    while (this.log.length > 1 && this.log[0][0] < needed) this.log.shift();
    if (this.kind === "reading") {
      const speed = decoded / ((performance.now() - this.began) / 1000);
      $("decoded").textContent = `${clock(Math.min(decoded, this.total))} of ${clock(this.total)}`;
      $("answer").textContent = `${speed.toFixed(speed < 10 ? 1 : 0)} ×`;
      $("spread").textContent = "real time";
      return;
    }
    $("decoded").textContent = clock(decoded);
    if (this.log.length && this.log[0][0] >= needed) answered(this, performance.now() - this.log[0][1]);
  }

  end(event) {
    const why = this.error ?? (this.done ? null : { code: `closed ${event.code}`, message: event.reason || "the connection is gone" });
    this.reject(Object.assign(new Error("closed"), { said: true }));
    if (why) complain(why.message, why.code);
    else state("ready", "ready");
    show("");
    if (live === this) live = null;
    $("ask").hidden = why?.code !== "unauthorized";
    controls();
  }
}

// -- what is shown ---------------------------------------------------------------------------------------

function state(name, text) {
  document.documentElement.dataset.state = name;
  $("state").textContent = text ?? name;
}

function complain(message, code) {
  $("notice").textContent = message + (code ? ` (${code})` : "");
  $("notice").hidden = false;
  state("error", "stopped");
}

function show(text) {
  $("partial").textContent = text.toLowerCase();
  $("partial").hidden = !text;
  if (text) $("hint").hidden = true;
  follow();
}

function settle(message) {
  const line = document.createElement("p"), when = document.createElement("time");
  when.textContent = clock(message.words[0]?.start ?? message.start);
  line.append(when);
  if (live && !live.settled) line.className = "first";
  if (live) live.settled = true;
  message.words.forEach((word, index) => {
    const span = document.createElement("span");
    span.textContent = word.word.toLowerCase();
    span.title = `${word.start.toFixed(2)}–${word.end.toFixed(2)} s, ${Math.round(100 * word.confidence)} % sure`;
    if (word.confidence < UNSURE) span.className = "unsure";
    line.append(index ? " " : "", span);
  });
  $("hint").hidden = true;
  $("finals").append(line);
  show("");
  controls();
}

function follow() {
  const below = document.documentElement.scrollHeight - innerHeight - scrollY;
  if (below < 240) scrollTo({ top: document.documentElement.scrollHeight });
}

function answered({ answers, chunk, lookahead }, milliseconds) {
  answers.push(milliseconds);
  if (answers.length > REMEMBERED) answers.shift();
  const sorted = [...answers].sort((a, b) => a - b), at = (share) => Math.round(sorted[Math.floor(share * (sorted.length - 1))]);
  $("answer").textContent = `${at(0.5)} ms`;
  // A sound waits for the rest of its chunk, half of one in the mean, and for what the model looks ahead.
  $("delay").textContent = `${Math.round(1000 * (chunk / 2 + lookahead)) + at(0.5)} ms`;
  $("most").textContent = `${Math.round(1000 * (chunk + lookahead)) + at(0.95)} ms at most in 95 %`;
  $("spread").textContent = `${at(0.95)} ms at most in 95 %`;
  const top = Math.max(100, sorted.at(-1));
  const points = answers.map((value, index) => `${(200 * index) / (REMEMBERED - 1)},${(38 - (36 * value) / top).toFixed(1)}`);
  document.querySelector("#trace polyline").setAttribute("points", points.join(" "));
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function controls() {
  const speaking = live?.kind === "listening", said = $("finals").childElementCount > 0;
  $("speak").setAttribute("aria-pressed", String(speaking));
  $("speak").setAttribute("aria-label", speaking ? "Stop listening" : "Start listening");
  $("speak").disabled = opening || (live !== null && (!speaking || live.finishing === true));
  $("file").disabled = opening || live !== null;
  $("copy").disabled = $("clear").disabled = !said;
  if (!speaking) $("speak").style.setProperty("--level", 0);
}

// -- the microphone --------------------------------------------------------------------------------------

async function listen() {
  if (!navigator.mediaDevices) throw new Error("Browsers give pages a microphone only over https, or on this machine itself.");
  state("connecting");
  const media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true } });
  const context = new AudioContext();
  const release = () => { media.getTracks().forEach((track) => track.stop()); context.close(); };
  try {
    await context.audioWorklet.addModule("capture.js");
  } catch (error) {
    release();
    throw error;
  }
  const stream = (live = new Stream("listening"));
  stream.closed.then(release);
  await stream.ready;
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  stream.capture = capture;
  capture.port.onmessage = ({ data }) => {
    if (data === null) return stream.finish();
    stream.send(data.samples);
    $("speak").style.setProperty("--level", Math.sqrt(data.peak).toFixed(3));
  };
  context.createMediaStreamSource(media).connect(capture);
  await context.resume();
  state("listening");
}

function stopListening() {
  live.finishing = true;
  state("finishing");
  controls();
  if (live.capture) live.capture.port.postMessage("flush");
  else live.socket.close();
}

// -- files -----------------------------------------------------------------------------------------------

async function read(file) {
  state("reading", `reading ${file.name}`);
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const samples = new Int16Array(decoded.length);
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, c) => decoded.getChannelData(c));
  for (let i = 0; i < samples.length; i++) {
    const mean = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    samples[i] = Math.round(32767 * Math.max(-1, Math.min(1, mean)));
  }
  const stream = (live = new Stream("reading"));
  stream.total = decoded.duration;
  controls();
  await stream.ready;
  stream.began = performance.now();
  for (let at = 0; at < samples.length && stream.socket.readyState === WebSocket.OPEN; at += FILE_PACKET) {
    while (stream.socket.bufferedAmount > MOST_BUFFERED) await new Promise((resolve) => setTimeout(resolve, 20));
    stream.send(samples.subarray(at, at + FILE_PACKET));
  }
  stream.finish();
}

async function attempt(work) {
  $("notice").hidden = $("ask").hidden = true;
  opening = true;
  controls();
  try {
    await work();
  } catch (error) {
    if (!error.said) {
      // A stream says itself why it ends; this one is told what to say.
      if (live) { live.error = { code: "", message: reason(error) }; live.socket.close(); }
      else complain(reason(error));
    }
  } finally {
    opening = false;
    controls();
  }
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The browser was not allowed to use the microphone.";
  if (error.name === "NotFoundError") return "There is no microphone.";
  if (error.name === "EncodingError") return "The browser cannot decode this file.";
  return error.message;
}

// -- what one can do -------------------------------------------------------------------------------------

$("speak").onclick = () => (live ? stopListening() : attempt(listen));
$("file").onchange = () => {
  const [file] = $("file").files;
  if (file) attempt(() => read(file));
  $("file").value = "";
};
$("clear").onclick = () => {
  $("finals").replaceChildren();
  $("hint").hidden = live !== null;
  controls();
};
$("copy").onclick = async () => {
  const lines = [...$("finals").children].map((line) => [...line.querySelectorAll("span")].map((word) => word.textContent).join(" "));
  await navigator.clipboard.writeText(lines.join("\n"));
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1200);
};
$("ask").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  $("ask").hidden = $("notice").hidden = true;
  state("ready");
};

let dragged = 0;
addEventListener("dragenter", () => { dragged++; $("drop").hidden = opening || live !== null; });
addEventListener("dragleave", () => { if (--dragged <= 0) { dragged = 0; $("drop").hidden = true; } });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragged = 0;
  $("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file && !opening && !live) attempt(() => read(file));
});

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given); // a fragment is sent to nobody
  history.replaceState(null, "", location.pathname);
}
state("ready");
controls();
transport.modelName?.().then((name) => ($("model").textContent ||= name), () => {});
