"""A server on this machine that answers like an OpenAI-compatible endpoint."""

import http.server
import json
import threading


class Server(http.server.ThreadingHTTPServer):
    """Says `say(body, number)`, with the reason `finish(body)`; `codes` are those of the first."""

    daemon_threads = True

    def __init__(self, say):
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.finish = say, lambda body: "stop"
        self.seen, self.codes, self.lock = [], [], threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append(body)
            number = len(server.seen)
            code = server.codes.pop(0) if server.codes else 200
        message = {"role": "assistant", "content": server.say(body, number)}
        choice = {"message": message, "finish_reason": server.finish(body)}
        data = json.dumps({"choices": [choice]}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
