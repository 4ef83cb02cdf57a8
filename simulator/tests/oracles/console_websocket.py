#!/usr/bin/env python3
"""Opens a guest's console over wss with two clients that this project did not write, websockets and
websocket-client, types there, and holds what they see against a snapshot that Pillow decodes.

Usage: console_websocket.py READY.json CERTIFICATE.pem (the line that the simulator prints, and the
certificate of the pool's master)
Prints one line per step; any surprise is an exception.
"""
import io
import json
import ssl
import struct
import sys
import urllib.error
import urllib.request

import websocket
import websockets.exceptions
import websockets.sync.client
import XenAPI
from PIL import Image

KEYS = "uname\r"


class Stream:
    """Bytes out of messages, however they are cut."""

    def __init__(self, send, receive):
        self.send = send
        self.receive = receive
        self.rest = b""

    def read(self, length):
        while len(self.rest) < length:
            message = self.receive()
            assert isinstance(message, bytes) and message, message
            self.rest += message
        data, self.rest = self.rest[:length], self.rest[length:]
        return data


def handshake(stream):
    """RFB 3.8 without a password; the size of the screen."""
    assert stream.read(12) == b"RFB 003.008\n"
    stream.send(b"RFB 003.008\n")
    kinds = stream.read(stream.read(1)[0])
    assert 1 in kinds, kinds
    stream.send(b"\x01")
    assert stream.read(4) == bytes(4)
    stream.send(b"\x01")
    width, height = struct.unpack(">HH", stream.read(4))
    stream.read(16)
    name = stream.read(struct.unpack(">I", stream.read(4))[0])
    print("screen", width, height, name.decode())
    # 32 bits, depth 24, little-endian, red at 16; then Raw only.
    stream.send(struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
    stream.send(struct.pack(">BxHi", 2, 1, 0))
    return width, height


def screen(stream, size, incremental):
    """The next update, as an image."""
    stream.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, *size))
    kind, count = struct.unpack(">BxH", stream.read(4))
    assert (kind, count) == (0, 1), (kind, count)
    x, y, width, height, encoding = struct.unpack(">HHHHi", stream.read(12))
    assert (x, y, (width, height), encoding) == (0, 0, size, 0)
    return Image.frombytes("RGB", size, stream.read(4 * width * height), "raw", "BGRX")


def use(stream):
    """Sees, types, sees something else; gives that."""
    size = handshake(stream)
    before = screen(stream, size, 0)
    assert len(before.getcolors()) == 2, before.getcolors()
    for key in KEYS:
        keysym = 0xFF0D if key == "\r" else ord(key)
        for down in (1, 0):
            stream.send(struct.pack(">BBxxI", 4, down, keysym))
    after = screen(stream, size, 1)
    assert after.tobytes() != before.tobytes(), "nothing changed"
    # The update may have come before the last key.
    return screen(stream, size, 0)


def snapshot(xen, vm, cookie, context):
    target = "%s/vncsnapshot?uuid=%s" % (xen["url"], vm["uuid"])
    request = urllib.request.Request(target, headers={"Cookie": cookie})
    with urllib.request.urlopen(request, context=context) as response:
        assert response.status == 200
        image = Image.open(io.BytesIO(response.read()))
        image.load()
    assert image.format == "JPEG", image.format
    return image.convert("RGB")


def compare(seen, taken):
    """The JPEG is what the console showed, as far as a JPEG can be."""
    assert seen.size == taken.size, (seen.size, taken.size)
    worst = max(abs(a - b) for a, b in zip(seen.tobytes(), taken.tobytes()))
    # Lit and dark are 170 apart.
    assert worst < 85, worst
    print("snapshot", taken.size, "differs by", worst, "at most")


def with_websockets(url, cookie, context):
    options = {"ssl": context, "additional_headers": {"Cookie": cookie}, "compression": None}
    try:
        websockets.sync.client.connect(url, **options)
        raise AssertionError("a subprotocol that nobody offered was accepted")
    except websockets.exceptions.InvalidHandshake as error:
        # The pool names it to everybody, as the real one does.
        print("without a subprotocol:", error)
    with websockets.sync.client.connect(url, subprotocols=["binary"], **options) as console:
        assert console.subprotocol == "binary"
        stream = Stream(console.send, lambda: console.recv(10))
        assert console.ping(b"are you there").wait(10), "no pong"
        seen = use(stream)
    assert console.close_code == 1000, console.close_code
    print("websockets", websockets.version.version)
    return seen


def with_websocket_client(url, cookie, context):
    console = websocket.create_connection(
        url, sslopt={"context": context}, cookie=cookie, subprotocols=["binary", "base64"], timeout=10
    )
    assert console.getsubprotocol() == "binary"
    seen = use(Stream(console.send_binary, console.recv))
    console.send_close(1000, b"done")
    opcode, payload = console.recv_data(control_frame=True)
    assert (opcode, payload[:2]) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8"), (opcode, payload)
    console.close()
    print("websocket-client", websocket.__version__)
    return seen


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        xen = json.load(file)["xen"]
    context = ssl.create_default_context(cafile=sys.argv[2])
    session = XenAPI.Session(xen["url"], ignore_ssl=True)
    session.login_with_password(xen["username"], xen["password"], "1.0", "oracle")
    api = session.xenapi
    cookie = "session_id=" + session._session
    (vm,) = api.VM.get_by_name_label("web01")
    consoles = [c for c in api.VM.get_consoles(vm) if api.console.get_protocol(c) == "rfb"]
    url = api.console.get_location(consoles[0]).replace("https://", "wss://")
    vm = api.VM.get_record(vm)

    seen = with_websockets(url, cookie, context)
    compare(seen, snapshot(xen, vm, cookie, context))
    again = with_websocket_client(url, cookie, context)
    assert again.tobytes() != seen.tobytes(), "nothing was typed"
    compare(again, snapshot(xen, vm, cookie, context))

    try:
        websocket.create_connection(url, sslopt={"context": context}, cookie="session_id=none")
        raise AssertionError("a session that nobody has was accepted")
    except websocket.WebSocketBadStatusException as error:
        assert error.status_code == 401, error
    try:
        snapshot(xen, vm, "session_id=none", context)
        raise AssertionError("a session that nobody has was accepted")
    except urllib.error.HTTPError as error:
        assert error.code == 401, error
    api.session.logout()
    print("all is well")


main()
