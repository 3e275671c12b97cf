// In the audio thread: one channel, 16 kHz, 16 bits, in packets of 60 ms with their peak.
import { Resampler } from "./resampler.js";

const PACKET = 960;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate);
    this.packet = new Int16Array(PACKET);
    this.filled = 0;
    this.peak = 0;
    this.open = true;
    this.port.onmessage = () => {
      this.take(this.resampler.flush());
      this.post();
      this.port.postMessage(null);
      this.open = false;
    };
  }

  process([channels]) {
    if (this.open && channels.length) {
      const mono = channels[0].slice();
      for (let c = 1; c < channels.length; c++) for (let i = 0; i < mono.length; i++) mono[i] += channels[c][i];
      for (let i = 0; i < mono.length; i++) mono[i] /= channels.length;
      this.take(this.resampler.push(mono));
    }
    return this.open;
  }

  take(samples) {
    for (const sample of samples) {
      const limited = Math.max(-1, Math.min(1, sample));
      this.peak = Math.max(this.peak, Math.abs(limited));
      this.packet[this.filled++] = Math.round(limited * 32767);
      if (this.filled === PACKET) this.post();
    }
  }

  post() {
    if (!this.filled) return;
    const samples = this.packet.slice(0, this.filled);
    this.port.postMessage({ samples, peak: this.peak }, [samples.buffer]);
    this.filled = this.peak = 0;
  }
}

registerProcessor("capture", Capture);
