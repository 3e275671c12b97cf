// Runs the bundle's model in this worker: samples in, messages of asr_kd/serve/README.md out.
import * as ort from "./ort.wasm.min.mjs";
import { Greedy } from "./decoder.js";
import { BINS, RATE, SHIFT, StreamingFbank } from "./fbank.js";

ort.env.wasm.numThreads = 1; // more need headers that static file servers do not send
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

const FACTOR = 4; // feature frames of an encoder frame

async function get(name) {
  const found = await fetch(name);
  if (!found.ok) throw new Error(`${name}: ${found.status}`);
  return found;
}

class Engine {
  static async load() {
    if (!crypto.subtle) throw new Error("Browsers verify the model only over https, or on this machine itself.");
    const info = await (await get("bundle.json")).json();
    const bytes = await (await get(info.model)).arrayBuffer();
    const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");
    if (digest !== info.sha256) throw new Error(`${info.model} is damaged; copy the folder again`);
    return new Engine(info, await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  }

  constructor(info, session) {
    Object.assign(this, { info, session });
    this.advance = FACTOR * info.chunk_frames;
    this.window = info.window_feature_frames;
  }

  zeros() {
    return this.info.states.map(({ dtype, shape }) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return new ort.Tensor(dtype, dtype === "int64" ? new BigInt64Array(size) : new Float32Array(size), shape);
    });
  }

  async step(features, states) {
    const feeds = { [this.info.input]: new ort.Tensor("float32", features, [1, this.window, BINS]) };
    this.info.states.forEach(({ name }, i) => (feeds[name] = states[i]));
    const found = await this.session.run(feeds);
    const [logProbs, ...after] = this.info.outputs.map((name) => found[name]);
    return [logProbs.data, after];
  }
}

class Stream {
  constructor(engine) {
    this.engine = engine;
    this.fbank = new StreamingFbank();
    this.features = new Float32Array(engine.window * BINS);
    this.known = 0; // frames of the current chunk
    this.states = engine.zeros();
    this.decoder = new Greedy(engine.info.symbols, engine.info.blank_id);
    this.samples = 0;
  }

  async accept(samples, came) {
    this.samples += samples.length;
    this.fbank.accept(samples);
    await this.run(came);
  }

  // Every complete chunk.
  async run(came) {
    const { engine, fbank } = this;
    while (!this.closed && this.known + fbank.ready >= engine.window) {
      while (this.known < engine.window) fbank.next(this.features, BINS * this.known++);
      const [logProbs, states] = await engine.step(this.features, this.states);
      this.features.copyWithin(0, engine.advance * BINS);
      this.known -= engine.advance;
      this.states = states;
      this.decoder.accept(logProbs, engine.info.chunk_frames);
      const rule = this.decoder.rule(engine.info.endpoint);
      if (rule !== null) {
        const ended = this.decoder.next(rule);
        this.states = engine.zeros();
        if (ended) this.post(ended);
      }
      this.post({ type: "partial", text: this.decoder.text, decoded: this.decoder.decodedSeconds, lag_ms: performance.now() - came });
    }
  }

  async end() {
    const { info, advance, window } = this.engine;
    if (this.samples) {
      const frames = Math.floor((this.samples + (info.tail_ms * RATE) / 1000 + SHIFT / 2) / SHIFT);
      const chunks = Math.max(Math.ceil(frames / advance), 1);
      this.fbank.accept(new Float32Array(SHIFT * (chunks * advance + window - advance) - this.samples));
      this.fbank.end();
      await this.run(performance.now());
      const last = this.decoder.next(null);
      if (last) this.post(last);
    }
    this.post({ type: "done", seconds: this.samples / RATE });
  }

  post(message) {
    if (!this.closed) postMessage(message);
  }
}

let engine = null, stream = null, work = Promise.resolve();

// Messages are handled one after the other, in their order.
onmessage = ({ data }) => {
  const came = performance.now(), target = data.type === "open" ? null : stream;
  if (data.type === "close") {
    if (stream) stream.closed = true;
    return;
  }
  work = work.then(() => handle(data, came, target)).catch((error) => {
    if (target) target.closed = true;
    engine = data.type === "open" ? null : engine;
    postMessage({ type: "error", code: "internal", message: error.message });
  });
};

async function handle(data, came) {
  if (data.type === "open") {
    engine ??= await Engine.load();
    stream = new Stream(engine);
    postMessage({ type: "opened" });
    const { name, chunk_ms, lookahead_ms } = engine.info;
    postMessage({ type: "ready", protocol: 1, model: name, sample_rate: RATE, chunk_ms, lookahead_ms });
  } else if (stream && !stream.closed) {
    if (data.type === "end") return stream.end();
    await stream.accept(Float32Array.from(data.samples, (sample) => sample / 32768), came);
    postMessage({ type: "decoded", bytes: data.samples.byteLength });
  }
}
