// The microphone: what is said becomes text in the question.

import { icon } from "../panels/dom.js";
import { words } from "../panels/words.js";

const RATE = 16000; // of the samples that models of speech take
const LONGEST = 10 * 60 * 1000; // milliseconds

/** `button` appears where a browser can record. `write(text)` takes the text. */
export function microphone(button, calls, attempt, tell, write) {
  if (!button || !isSecureContext || !navigator.mediaDevices || !window.MediaRecorder) return;
  button.hidden = false;
  let recorder;
  const show = (name, shown) => {
    button.ariaLabel = button.title = words(name);
    button.replaceChildren(icon(shown ? "stop" : "microphone"));
  };
  button.addEventListener("click", async () => {
    if (recorder) return recorder.state === "recording" && recorder.stop();
    button.disabled = true;
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => null);
    button.disabled = false;
    if (!stream) return tell(words("microphone.refused"));
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", async () => {
      for (const track of stream.getTracks()) track.stop();
      button.disabled = true;
      const form = new FormData();
      try {
        form.set("file", await wav(new Blob(parts)), "speech.wav");
        form.set("model", button.dataset.model);
        const heard = await attempt(() => calls.post("/heard", form));
        if (heard) write(heard.text.trim().replace(/\s*\n\s*/g, " "));
      } catch {
        tell(words("microphone.silent"));
      }
      recorder = undefined;
      button.disabled = false;
      show("microphone.start", false);
    });
    setTimeout((mine) => mine.state === "recording" && mine.stop(), LONGEST, recorder);
    recorder.start();
    show("microphone.stop", true);
  });
}

/** A recording as a WAV file of one channel, which every server of models reads. */
async function wav(recording) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const sound = await context.decodeAudioData(await recording.arrayBuffer());
  const samples = sound.getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint32(20, 0x10001, true); // PCM, one channel
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint32(32, 0x100002, true); // two bytes for each of its samples
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, sample)), true));
  return new Blob([view], { type: "audio/wav" });
}
