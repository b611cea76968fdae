"""Starts vcenter-sim for a contract test and talks to its control socket."""
import json, os, signal, socket, subprocess, tempfile, threading

PASSWORD = "s3cret & <odd>"


class Sim:
    def __init__(self, binary, inventory, api="8.0.2.0", dump=None, backend="none"):
        self.dir = tempfile.TemporaryDirectory(prefix="contract-")
        path = lambda name: os.path.join(self.dir.name, name)
        for ds in inventory.get("datastores", []):
            ds.setdefault("dir", path(ds["name"]))
        with open(path("inventory.json"), "w") as f: json.dump(inventory, f)
        with open(path("password"), "w") as f: f.write(PASSWORD + "\n")
        argv = [binary, "--inventory", path("inventory.json"), "--control", path("control"), "--work", path("work"),
                "--password-file", path("password"), "--api-version", api, "--cert-out", path("ca.pem"), "--backend", backend]
        if dump: argv += ["--dump", dump]
        self.proc = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        # A simulator that never gets ready ends the test, not the patience of its caller.
        timer = threading.Timer(60, self.proc.kill); timer.start()
        line = self.proc.stdout.readline(); timer.cancel()
        if not line: raise SystemExit("vcenter-sim did not start")
        ready = json.loads(line)
        self.url, self.sha256, self.ca = ready["url"], ready["sha256"], path("ca.pem")
        self.host, self.port = self.url.split("/")[2].rsplit(":", 1)
        self.control_socket = socket.socket(socket.AF_UNIX); self.control_socket.settimeout(60)
        self.control_socket.connect(path("control")); self.lines = self.control_socket.makefile("rw")

    def control(self, cmd, **args):
        self.lines.write(json.dumps({"cmd": cmd, **args}) + "\n"); self.lines.flush()
        reply = json.loads(self.lines.readline())
        if not reply["ok"]: raise RuntimeError(f"{cmd}: {reply['error']}")
        return reply

    def close(self):
        self.proc.send_signal(signal.SIGTERM)
        try: self.proc.wait(30)
        except subprocess.TimeoutExpired: self.proc.kill(); raise
        self.dir.cleanup()

    def __enter__(self): return self
    def __exit__(self, *_): self.close()
