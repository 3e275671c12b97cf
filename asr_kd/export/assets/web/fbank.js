// Kaldi's log-mel filter banks as samples arrive: the contract of asr_kd/features/fbank.py in double precision.
// 16 kHz in [-1, 1]; 80 bins, 20 to 7600 Hz; Povey windows of 25 ms every 10 ms; pre-emphasis 0.97; DC removed; no
// dither; frames centred (snip_edges false), so that samples beyond both ends are reflected.

export const RATE = 16000, BINS = 80, SHIFT = 160;
const WINDOW = 400, FFT = 512, LOWEST = 20, HIGHEST = 7600, PREEMPHASIS = 0.97, FLOOR = 1.1920928955078125e-7;
const LEAD = (WINDOW - SHIFT) / 2; // samples of a window before its frame

const window = Float64Array.from({ length: WINDOW }, (_, i) => (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (WINDOW - 1))) ** 0.85);
const mel = (hertz) => 1127 * Math.log(1 + hertz / 700);
const filters = melFilters(); // [{ first, weights }]
const [cosines, sines] = [Math.cos, Math.sin].map((f) => Float64Array.from({ length: FFT / 2 }, (_, i) => f((2 * Math.PI * i) / FFT)));
const reversed = Uint16Array.from({ length: FFT }, (_, i) => {
  let r = 0;
  for (let bit = 1, from = i; bit < FFT; bit *= 2, from >>= 1) r = r * 2 + (from & 1);
  return r;
});

function melFilters() {
  const low = mel(LOWEST), step = (mel(HIGHEST) - low) / (BINS + 1);
  return Array.from({ length: BINS }, (_, bin) => {
    const left = low + bin * step, centre = left + step, right = centre + step, found = [];
    let first = -1;
    for (let k = 0; k < FFT / 2; k++) {
      const at = mel((RATE / FFT) * k);
      if (at <= left || at >= right) continue;
      if (first < 0) first = k;
      found.push(at <= centre ? (at - left) / (centre - left) : (right - at) / (right - centre));
    }
    return { first, weights: Float64Array.from(found) };
  });
}

const real = new Float64Array(FFT), imaginary = new Float64Array(FFT), power = new Float64Array(FFT / 2);

// The power spectrum of `frame`, by an iterative radix-2 transform.
function spectrum(frame) {
  for (let i = 0; i < FFT; i++) {
    real[i] = reversed[i] < WINDOW ? frame[reversed[i]] : 0;
    imaginary[i] = 0;
  }
  for (let size = 2; size <= FFT; size *= 2) {
    const half = size / 2, stride = FFT / size;
    for (let start = 0; start < FFT; start += size) {
      for (let k = 0; k < half; k++) {
        const c = cosines[k * stride], s = sines[k * stride], a = start + k, b = a + half;
        const re = real[b] * c + imaginary[b] * s, im = imaginary[b] * c - real[b] * s;
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
  for (let k = 0; k < FFT / 2; k++) power[k] = real[k] * real[k] + imaginary[k] * imaginary[k];
}

const frame = new Float64Array(WINDOW);

export class StreamingFbank {
  constructor() {
    this.samples = new Float32Array(4 * RATE);
    this.first = 0; // number of the first sample that is kept
    this.count = 0; // samples so far
    this.taken = 0; // frames
    this.ended = false;
  }

  accept(samples) {
    const keep = Math.max(0, this.taken * SHIFT - LEAD);
    const kept = this.samples.subarray(Math.max(0, keep - this.first), this.count - this.first);
    const needed = kept.length + samples.length;
    const target = needed > this.samples.length ? new Float32Array(2 * needed) : this.samples;
    target.set(kept); // a typed array may be set from a part of itself
    this.first = Math.max(this.first, keep);
    target.set(samples, kept.length);
    this.samples = target;
    this.count += samples.length;
  }

  end() {
    this.ended = true;
  }

  get ready() {
    const all = this.ended ? Math.floor((this.count + SHIFT / 2) / SHIFT) : Math.floor((this.count + LEAD - WINDOW) / SHIFT) + 1;
    return Math.max(all - this.taken, 0);
  }

  // The next frame, into `out` at `at`.
  next(out, at) {
    const start = this.taken * SHIFT - LEAD;
    let mean = 0;
    for (let i = 0; i < WINDOW; i++) {
      let number = start + i;
      while (number < 0 || number >= this.count) number = number < 0 ? -number - 1 : 2 * this.count - 1 - number;
      mean += frame[i] = this.samples[number - this.first];
    }
    mean /= WINDOW;
    for (let i = WINDOW - 1; i > 0; i--) frame[i] = (frame[i] - mean - PREEMPHASIS * (frame[i - 1] - mean)) * window[i];
    frame[0] = 0; // the window's first weight
    spectrum(frame);
    filters.forEach(({ first, weights }, bin) => {
      let energy = 0;
      for (let k = 0; k < weights.length; k++) energy += weights[k] * power[first + k];
      out[at + bin] = Math.log(Math.max(energy, FLOOR));
    });
    this.taken++;
  }
}
