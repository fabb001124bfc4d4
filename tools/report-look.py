#!/usr/bin/env python3
"""Opens pages in a headless Chromium over its debugging protocol: screenshots in light and dark, narrow
and wide, a printed copy; and fails when the console says anything, when something is requested, when a page
is wider than its window, or when an element is there that the writer does not know.

report-look.py DIRECTORY PAGE.html ...        (standard library only)
"""
import base64, json, os, pathlib, shutil, socket, struct, subprocess, sys, tempfile, time, urllib.request

# Elements and attributes that src/report/html writes; anything else came from a name.
ELEMENTS = set(
    "html head meta title style body header h1 h2 h3 h4 p main section nav div span b a ul ol li dl dt dd table "
    "thead tbody tr th td details summary figure figcaption footer svg rect line circle text".split()
)
ATTRIBUTES = set(
    "lang charset http-equiv content name class id href role height width aria-label aria-hidden x y x1 x2 y1 y2 "
    "cx cy r dx text-anchor data-label".split()
)


class Page:
    """One tab, spoken to over a WebSocket (RFC 6455; texts only, as a client has to mask them)."""

    def __init__(self, url):
        host, path = url.removeprefix("ws://").split("/", 1)
        name, port = host.split(":")
        self.sock = socket.create_connection((name, int(port)), 120)
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.sock.recv(4096)
        self.buffer = self.buffer.split(b"\r\n\r\n", 1)[1]
        self.number, self.events = 0, []

    def read(self, n):
        while len(self.buffer) < n:
            part = self.sock.recv(1 << 20)
            if not part:
                raise EOFError("the browser went away")
            self.buffer += part
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def message(self):
        data = b""
        while True:
            first, second = self.read(2)
            size = second & 127
            if size == 126:
                size = struct.unpack(">H", self.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self.read(8))[0]
            part = self.read(size)
            if first & 15 in (0, 1):
                data += part
                if first & 128:
                    return json.loads(data)

    def call(self, method, **params):
        self.number += 1
        data = json.dumps({"id": self.number, "method": method, "params": params}).encode()
        head = b"\x81"
        if len(data) < 126:
            head += bytes([128 | len(data)])
        elif len(data) < 65536:
            head += bytes([254]) + struct.pack(">H", len(data))
        else:
            head += bytes([255]) + struct.pack(">Q", len(data))
        mask = os.urandom(4)
        self.sock.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, name):
        while not any(event.get("method") == name for event in self.events):
            self.events.append(self.message())


def look(page, path, out, shots):
    bad = []
    page.events.clear()
    uri = path.resolve().as_uri()
    page.call("Page.navigate", url=uri)
    page.wait("Page.loadEventFired")
    stem = path.stem
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            wide = page.value("document.documentElement.scrollWidth")
            if wide > width:
                bad.append(f"{wide} pixels wide in a window of {width}")
            if shots:
                size = page.call("Page.getLayoutMetrics")["cssContentSize"]
                clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 6000), "scale": 1}
                shot = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
                (out / f"{stem}-{width}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))
    page.call("Emulation.setEmulatedMedia", features=[])
    if shots:
        pdf = page.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        (out / f"{stem}.pdf").write_bytes(base64.b64decode(pdf["data"]))
    names = page.value(
        "JSON.stringify([[...new Set([...document.querySelectorAll('*')].map(e=>e.localName))],"
        "[...new Set([...document.querySelectorAll('*')].flatMap(e=>[...e.attributes].map(a=>a.name)))],"
        "[...document.querySelectorAll('[href]')].filter(e=>!e.getAttribute('href').startsWith('#')).length])"
    )
    elements, attributes, links = json.loads(names)
    for kind, found, known in (("element", elements, ELEMENTS), ("attribute", attributes, ATTRIBUTES)):
        bad += [f"{kind} {name!r} is not ours" for name in found if name not in known]
    if links:
        bad.append(f"{links} links lead out of the page")
    if page.value("getComputedStyle(document.querySelector('main')).maxWidth") != "1240px":
        bad.append("the style sheet was not taken")
    for event in page.events:
        method, params = event.get("method"), event.get("params", {})
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            bad.append(f"console: {json.dumps(params)[:300]}")
        if method == "Network.requestWillBeSent" and params["request"]["url"] != uri:
            bad.append(f"request: {params['request']['url'][:200]}")
        if method == "Page.javascriptDialogOpening":
            bad.append("a script ran")
    return bad


def main():
    out = pathlib.Path(sys.argv[1])
    pages = [pathlib.Path(name) for name in sys.argv[2:] if not name.startswith("--")]
    shots = "--no-shots" not in sys.argv
    home = tempfile.mkdtemp()
    known = [shutil.which(name) for name in ("chromium-headless-shell", "chromium")]
    program = next((path for path in known if path), None)
    if not program:
        sys.exit("no chromium: tools/install-witnesses installs it")
    mode = "--headless" if program.endswith("shell") else "--headless=new"
    browser = subprocess.Popen(
        [program, mode, "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--remote-debugging-port=0", f"--user-data-dir={home}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    failed = False
    try:
        port_file = pathlib.Path(home) / "DevToolsActivePort"
        for _ in range(1200):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            if browser.poll() is not None:
                sys.exit(f"{program} ended: {browser.returncode}")
            time.sleep(0.1)
        else:
            sys.exit(f"{program} did not open its port within two minutes")
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
        page = Page(tab["webSocketDebuggerUrl"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        for path in pages:
            started = time.time()
            bad = look(page, path, out, shots)
            failed |= bool(bad)
            print(f"{path.name}: {path.stat().st_size >> 10} KiB, {time.time() - started:.1f} s: {'; '.join(bad) or 'good'}")
    finally:
        browser.terminate()
        browser.wait(30)
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(failed)


main()
