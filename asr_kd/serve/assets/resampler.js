// Any sample rate to 16 kHz as packets arrive: a windowed sinc, one set of taps for each phase of the two rates.
// Browsers differ in whether they resample a microphone, and in how; this is the same everywhere.

const ZERO_CROSSINGS = 24;
const ROLLOFF = 0.945; // of half the lower rate; the window's transition band ends at that half

export class Resampler {
  constructor(from, to = 16000) {
    const shared = gcd(Math.round(from), to);
    this.step = Math.round(from) / shared; // input samples for `phases` output samples
    this.phases = to / shared;
    const scale = Math.min(1, to / from) * ROLLOFF;
    this.half = Math.ceil(ZERO_CROSSINGS / scale);
    this.taps = Array.from({ length: this.phases }, (_, phase) => taps(phase / this.phases, this.half, scale));
    this.kept = new Float32Array(this.half); // silence before the first sample
    this.at = this.half; // where the next output lies in `kept`
    this.phase = 0;
  }

  // Float32Array in, Float32Array out: what these samples complete.
  push(samples) {
    const input = new Float32Array(this.kept.length + samples.length);
    input.set(this.kept);
    input.set(samples, this.kept.length);
    const output = [];
    while (this.at + this.half < input.length) {
      const taps = this.taps[this.phase];
      let sum = 0;
      for (let i = 0, j = this.at - this.half; i < taps.length; i++, j++) sum += taps[i] * input[j];
      output.push(sum);
      this.phase += this.step;
      this.at += Math.floor(this.phase / this.phases);
      this.phase %= this.phases;
    }
    const from = Math.min(this.at - this.half, input.length);
    this.kept = input.slice(from);
    this.at -= from;
    return Float32Array.from(output);
  }

  // The end: what the last samples still owe.
  flush() {
    return this.push(new Float32Array(this.half));
  }
}

function taps(fraction, half, scale) {
  const values = new Float64Array(2 * half + 1);
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    const time = i - half - fraction;
    const place = time / (half + 1);
    const angle = Math.PI * time * scale;
    const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
    const window = Math.abs(place) >= 1 ? 0 : 0.42 + 0.5 * Math.cos(Math.PI * place) + 0.08 * Math.cos(2 * Math.PI * place);
    values[i] = scale * sinc * window;
    sum += values[i];
  }
  return values.map((value) => value / sum); // a constant stays what it is, in every phase
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}
