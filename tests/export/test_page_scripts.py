"""Scripts of the page in Node.js, where a browser would hide what happens: what is missing, and what comes twice."""

import json
import shutil
import subprocess

import pytest

from tests.helpers.tiny_run import ROOT

SERVE, WEB = ROOT / "asr_kd" / "serve" / "assets", ROOT / "asr_kd" / "export" / "assets" / "web"


def run_node(folder, script, *sources):
    """Run a script beside copies of the sources; what it writes, JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    for source in sources:
        shutil.copy(source, folder)
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (folder / "main.js").write_text(script, encoding="utf-8")
    done = subprocess.run([node, "main.js"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


BROKEN_WORKER = """
let worker;
Object.defineProperty(globalThis, "navigator", { value: {} });
Object.assign(globalThis, { isSecureContext: false, WebSocket: { CONNECTING: 0, OPEN: 1, CLOSED: 3 } });
globalThis.Worker = class { constructor() { worker = this; } postMessage() {} };
const { connect } = await import("./transport.js");
worker.onerror({}); // a module that is missing, while the page is loaded
const told = [];
const connection = connect();
connection.onmessage = ({ data }) => told.push(JSON.parse(data));
connection.onclose = () => console.log(JSON.stringify(told));
"""


def test_a_recognizer_that_was_not_loaded_is_an_error_and_no_endless_wait(tmp_path):
    (found,) = run_node(tmp_path, BROKEN_WORKER, WEB / "transport.js")
    assert found["type"] == "error"
    assert ".mjs" in found["message"]


WORKER = """
const told = [], answers = ANSWERS;
Object.defineProperty(globalThis, "crypto", { value: { subtle: SECURE } });
Object.assign(globalThis, { onmessage: null, postMessage: (message) => told.push(message.message) });
globalThis.fetch = async (name) => answers[name] ?? { ok: false, status: 404 };
await import("./worker.js");
onmessage({ data: { type: "open" } });
setTimeout(() => console.log(JSON.stringify(told)), 50);
"""


@pytest.mark.parametrize(
    ("secure", "message"),
    [
        ("{}", "bundle.json: 404"),
        ("undefined", "Browsers verify the model only over https, or on this machine itself."),
    ],
)
def test_a_missing_description_and_plain_http_are_one_message(tmp_path, secure, message):
    (tmp_path / "ort.wasm.min.mjs").write_text("export const env = { wasm: {} };", encoding="utf-8")
    script = WORKER.replace("ANSWERS", "{}").replace("SECURE", secure)
    found = run_node(tmp_path, script, *(WEB / name for name in ("worker.js", "decoder.js", "fbank.js")))
    assert found == [message]


TWO_DROPS = """
const handlers = {}, elements = {};
const element = () => ({ style: { setProperty() {} }, setAttribute() {}, childElementCount: 0 });
Object.assign(globalThis, { location: { hash: "" }, sessionStorage: new Map() });
globalThis.addEventListener = (name, handler) => (handlers[name] = handler);
globalThis.document = { getElementById: (id) => (elements[id] ??= element()), documentElement: { dataset: {} } };
let decoded = 0;
globalThis.OfflineAudioContext = class { decodeAudioData() { decoded++; return new Promise(() => {}); } };
await import("./page.js");
const file = { name: "a.wav", arrayBuffer: async () => new ArrayBuffer(0) };
for (let i = 0; i < 2; i++) handlers.drop({ preventDefault() {}, dataTransfer: { files: [file] } });
setTimeout(() => console.log(JSON.stringify(decoded)), 50);
"""


def test_a_file_dropped_while_another_is_decoded_is_not_read_beside_it(tmp_path):
    (tmp_path / "transport.js").write_text("", encoding="utf-8")
    assert run_node(tmp_path, TWO_DROPS, SERVE / "page.js") == 1
