"""An OpenAI-compatible server that misbehaves as told, and counts what it is asked."""

import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, **more):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "x", "choices": [{**choice, **more}], "usage": usage}


class HostileServer:
    """Answers by `behaviour(question, times) -> action`, times counting from 1 for each question.

    An action is a name below, a dict (sent as JSON), bytes (sent as they are), or a tuple
    (status, headers, body).
    """

    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.questions, self.payloads, self.headers = [], [], []
        self.lock = threading.Lock()
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.handle(self)

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        question = body["messages"][-1]["content"] if "messages" in body else body["input"]
        with self.lock:
            self.questions.append(question)
            self.payloads.append(body)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            times = self.questions.count(question)
        action = self.behaviour(question, times)
        if action == "hang":
            self.let_go.wait(30)
            return
        if action == "reset":
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.close_connection = True
            for part in (handler.wfile, handler.rfile, handler.connection):
                part.close()
            return
        if action == "truncated":
            whole = json.dumps(completion("lost")).encode()
            send(handler, 200, {"content-length": str(len(whole))}, whole[:30], cut=True)
            return
        if action == "drip":
            self.drip(handler, b"HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n", b" ", 0.05)
            return
        if action == "drip headers":
            self.drip(handler, b"HTTP/1.1 200 OK\r\nx: ", b"a", 0.05)
            return
        if action == "continue":
            self.drip(handler, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.001)
            return
        if action == "huge":
            send(handler, 200, {"connection": "close"}, b'{"choices": [', cut=True)
            try:
                for _ in range(4096):
                    handler.wfile.write(b" " * 65536)
            except OSError:
                self.stopped_early = True
            return
        if isinstance(action, dict):
            action = json.dumps(action).encode()
        if isinstance(action, bytes):
            action = (200, {}, action)
        send(handler, *action)

    def drip(self, handler, first, each, seconds):
        """Send a little now and then, for ever."""
        handler.close_connection = True
        try:
            handler.wfile.write(first)
            while not self.let_go.wait(seconds):
                handler.wfile.write(each)
        except OSError:
            pass

    def close(self):
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)
        time.sleep(0)


def send(handler, status, headers, body, cut=False):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if "content-length" not in headers and not cut:
        handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    if cut:
        handler.wfile.flush()
        handler.close_connection = True
