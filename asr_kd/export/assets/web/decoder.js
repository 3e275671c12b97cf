// Best-path CTC decoding of a stream, words with times and confidences, and the endpoint rules of sherpa-onnx: as
// asr_kd/decoding does.

const FRAME_SECONDS = 0.04;
const SEPARATOR = "▁";

export class Greedy {
  constructor(symbols, blank) {
    Object.assign(this, { symbols, blank, before: 0 }); // frames of earlier utterances
    this.reset();
  }

  reset() {
    this.tokens = []; // [{ token, first, last, best }]
    this.frames = this.trailingBlanks = 0;
    this.previous = this.blank;
  }

  // `logProbs`: [frames, V], flat.
  accept(logProbs, frames) {
    const size = this.symbols.length;
    for (let t = 0; t < frames; t++, this.frames++) {
      let best = 0;
      for (let v = 1; v < size; v++) if (logProbs[t * size + v] > logProbs[t * size + best]) best = v;
      const value = logProbs[t * size + best];
      if (!Number.isFinite(value)) throw new Error("the model's output is not finite");
      this.trailingBlanks = best === this.blank ? this.trailingBlanks + 1 : 0;
      if (best !== this.blank) {
        const last = this.tokens.at(-1);
        if (best !== this.previous) this.tokens.push({ token: best, first: this.frames, last: this.frames, best: value });
        else Object.assign(last, { last: this.frames, best: Math.max(last.best, value) });
      }
      this.previous = best;
    }
  }

  words() {
    const words = [];
    let begins = true;
    for (const item of this.tokens) {
      this.symbols[item.token].split(SEPARATOR).forEach((part, index) => {
        begins ||= index > 0;
        if (!part) return;
        if (begins) words.push({ word: "", items: [] });
        const word = words.at(-1);
        word.word += part;
        if (word.items.at(-1) !== item) word.items.push(item);
        begins = false;
      });
    }
    const seconds = (frames) => Math.round((this.before + frames) * FRAME_SECONDS * 1000) / 1000;
    return words.map(({ word, items }) => ({
      word,
      start: seconds(items[0].first),
      end: seconds(items.at(-1).last + 1),
      confidence: Math.exp(Math.min(0, items.reduce((sum, { best }) => sum + best, 0) / items.length)),
    }));
  }

  get text() {
    return this.words().map(({ word }) => word).join(" ");
  }

  // The first rule, 1 to 3, that ends the utterance; null while it continues. In float32, as the client computes.
  rule([silence1, silence2, longest]) {
    const seconds = (frames) => Math.fround(Math.fround(frames) * Math.fround(FRAME_SECONDS));
    const utterance = seconds(this.frames), silence = seconds(this.trailingBlanks);
    if (silence >= Math.fround(silence1)) return 1;
    if (utterance > silence && silence >= Math.fround(silence2)) return 2;
    return utterance >= Math.fround(longest) ? 3 : null;
  }

  // End the utterance and start the next; null when it has no text.
  next(rule) {
    const start = this.before * FRAME_SECONDS, text = this.text, words = this.words();
    this.before += this.frames;
    this.reset();
    return text ? { type: "final", text, words, start, end: this.before * FRAME_SECONDS, rule } : null;
  }

  get decodedSeconds() {
    return (this.before + this.frames) * FRAME_SECONDS;
  }
}
