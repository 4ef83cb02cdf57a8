#!/usr/bin/env python3
"""Puts disks and machines into the simulated pool with what Python brings along: `http.client`,
`xmlrpc.client`, `tarfile`.

Usage: import_client.py READY.json FOLDER (a folder for its files)
Prints one line per step; any surprise is an exception.
"""
import hashlib
import http.client
import io
import json
import os
import ssl
import struct
import subprocess
import sys
import tarfile
import time
import urllib.parse
import xmlrpc.client

MIB = 1 << 20
SIZE = 8 * MIB


class Pool:
    def __init__(self, xen):
        self.tls = ssl._create_unverified_context()
        self.rpc = xmlrpc.client.ServerProxy(xen["url"], context=self.tls)
        self.netloc = urllib.parse.urlparse(xen["url"]).netloc
        answer = self.rpc.session.login_with_password(xen["username"], xen["password"], "1.0", "oracle")
        self.session = answer["Value"]

    def call(self, method, *params):
        answer = getattr(self.rpc, method)(self.session, *params)
        assert answer["Status"] == "Success", answer
        return answer["Value"]

    def connect(self):
        return http.client.HTTPSConnection(self.netloc, context=self.tls, timeout=60)

    def get(self, path, **query):
        connection = self.connect()
        query["session_id"] = self.session
        connection.request("GET", path + "?" + urllib.parse.urlencode(query))
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        return answer.read()

    def put(self, path, body, headers=None, raw="", **query):
        """The status, the body of the answer, and how the task ended."""
        task = self.call("task.create", "put", "")
        query.update(session_id=query.get("session_id", self.session), task_id=task)
        connection = self.connect()
        target = path + "?" + urllib.parse.urlencode(query) + raw
        connection.request("PUT", target, body=body, headers=headers or {})
        answer = connection.getresponse()
        said = (answer.status, answer.read())
        while True:
            record = self.call("task.get_record", task)
            if record["status"] not in ("pending", "cancelling"):
                break
            time.sleep(0.02)
        self.call("task.destroy", task)
        return said + (record,)

    def disk(self, size=SIZE):
        sr = self.call("SR.get_all")[0]
        record = {"name_label": "oracle", "name_description": "", "SR": sr, "virtual_size": str(size),
                  "type": "user", "sharable": False, "read_only": False, "other_config": {}}
        return self.call("VDI.create", record)


def content():
    data = bytearray(SIZE)
    for at in (0, 700_000, 3 * MIB, SIZE - 4096):
        data[at:at + 4096] = hashlib.sha256(str(at).encode()).digest() * 128
    return bytes(data)


def reference(record):
    assert record["status"] == "success", (record["status"], record["error_info"])
    return record["result"].removeprefix("<value>").removesuffix("</value>")


def raw(pool, data):
    vdi = pool.disk()
    status, body, record = pool.put("/import_raw_vdi", data, vdi=vdi)
    assert (status, body) == (200, b""), (status, body)
    assert reference(record) == vdi
    assert pool.get("/export_raw_vdi", vdi=vdi) == data
    # Into a repository: the server makes the disk.
    sr = pool.call("SR.get_all")[0]
    made = reference(pool.put("/import_raw_vdi", data, sr_id=sr)[2])
    assert pool.call("VDI.get_name_label", made) == "Imported VDI"
    assert pool.get("/export_raw_vdi", vdi=made, format="raw") == data
    # A shorter image leaves the rest of the disk alone.
    reference(pool.put("/import_raw_vdi", b"\7" * 1000, vdi=made)[2])
    assert pool.get("/export_raw_vdi", vdi=made) == b"\7" * 1000 + data[1000:]
    status, _, record = pool.put("/import_raw_vdi", data + b"x", vdi=vdi)
    assert status == 200 and record["error_info"][0] == "VDI_IO_ERROR", record
    print("raw", len(data))
    return vdi


def pieces(pool, data):
    vdi = pool.disk()
    frames = b"".join(
        struct.pack("<QI", at, 4096) + data[at:at + 4096]
        for at in range(0, SIZE, 4096) if any(data[at:at + 4096]))
    # The parameter is on by its presence, whatever it says.
    reference(pool.put("/import_raw_vdi", frames + bytes(12), vdi=vdi, chunked="false")[2])
    assert pool.get("/export_raw_vdi", vdi=vdi) == data
    reference(pool.put("/import_raw_vdi", frames + bytes(12), vdi=vdi, raw="&chunked")[2])
    _, _, record = pool.put("/import_raw_vdi", frames, vdi=vdi, chunked="1")
    assert record["status"] == "failure", record
    print("pieces", len(frames))


def vhd(pool, data, source):
    body = pool.get("/export_raw_vdi", vdi=source, format="vhd")
    vdi = pool.disk()
    reference(pool.put("/import_raw_vdi", body, vdi=vdi, format="vhd")[2])
    assert pool.get("/export_raw_vdi", vdi=vdi) == data
    _, _, record = pool.put("/import_raw_vdi", body[:-512], vdi=vdi, format="vhd")
    assert record["error_info"][0] == "VDI_IO_ERROR", record
    print("vhd", len(body))


def qcow2(pool, data, folder):
    path = {name: os.path.join(folder, name) for name in ("in.raw", "a.qcow2", "b.qcow2", "out.raw")}
    with open(path["in.raw"], "wb") as file:
        file.write(data)
    for options in (["-o", "cluster_size=4096"], ["-o", "compat=0.10"], ["-c"]):
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options]
        try:
            subprocess.run([*convert, path["in.raw"], path["a.qcow2"]], check=True)
        except FileNotFoundError:
            return print("qcow2 skipped: there is no qemu-img here")
        vdi = pool.disk()
        with open(path["a.qcow2"], "rb") as file:
            reference(pool.put("/import_raw_vdi", file.read(), vdi=vdi, format="qcow2")[2])
        assert pool.get("/export_raw_vdi", vdi=vdi) == data, options
    with open(path["b.qcow2"], "wb") as file:
        file.write(pool.get("/export_raw_vdi", vdi=vdi, format="qcow2"))
    subprocess.run(["qemu-img", "check", "-q", path["b.qcow2"]], check=True)
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path["b.qcow2"], path["out.raw"]]
    subprocess.run(convert, check=True)
    with open(path["out.raw"], "rb") as file:
        assert file.read() == data
    print("qcow2", os.path.getsize(path["b.qcow2"]))


def describe(size):
    """The description of a machine with one disk, as `xmlrpc.client` writes it."""
    disk = {"virtual_size": str(size), "name_label": "from python", "SR": "Ref:9", "type": "system"}
    device = {"VM": "Ref:1", "VDI": "Ref:3", "type": "Disk", "userdevice": "0", "empty": False}
    objects = [
        {"class": "VM", "id": "Ref:1", "snapshot": {"name_label": "guest from python", "uuid": "u",
                                                     "power_state": "Halted", "VCPUs_max": "3"}},
        {"class": "VBD", "id": "Ref:2", "snapshot": device},
        {"class": "VDI", "id": "Ref:3", "snapshot": disk},
    ]
    text = xmlrpc.client.dumps(({"version": {"export_vsn": "2"}, "objects": objects},))
    return text[text.index("<value>"):text.rindex("</param>")].strip().encode()


def archive(data, wrong=False):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        add("ova.xml", describe(len(data)))
        for number in range(0, len(data) // MIB):
            chunk = data[number * MIB:(number + 1) * MIB]
            if any(chunk) or number in (0, len(data) // MIB - 1):
                add("Ref:3/%08d" % number, chunk)
                digest = hashlib.sha1(chunk + b"x" * wrong).hexdigest()
                add("Ref:3/%08d.checksum" % number, digest.encode())
    return out.getvalue()


def machine(pool, data, folder):
    xva = archive(data)
    packed = {"tar": xva}
    with open(os.path.join(folder, "a.xva"), "wb") as file:
        file.write(xva)
    for tool in ("gzip", "zstd"):
        try:
            run = subprocess.run([tool, "-q", "-c", file.name], check=True, stdout=subprocess.PIPE)
            packed[tool] = run.stdout
        except FileNotFoundError:
            print(tool, "skipped: it is not here")
    for name, body in packed.items():
        status, answer, record = pool.put("/import", body)
        assert (status, answer) == (200, b""), (status, answer)
        result = record["result"]
        assert result.startswith("<value><array><data><value>OpaqueRef:"), result
        assert record["other_config"] == {"object_creation": "complete"}, record
        vm = result.removeprefix("<value><array><data><value>").split("<")[0]
        vm = pool.call("VM.get_record", vm)
        assert (vm["name_label"], vm["VCPUs_max"]) == ("guest from python", "3"), vm
        disk = pool.call("VBD.get_VDI", vm["VBDs"][0])
        assert pool.get("/export_raw_vdi", vdi=disk) == data
        # And back, in each of the server's own packings.
        for tool in packed:
            query = {} if tool == "tar" else {"use_compression": tool}
            back = pool.get("/export", uuid=vm["uuid"], **query)
            if tool != "tar":
                run = subprocess.run([tool, "-q", "-d", "-c"], input=back, check=True, stdout=subprocess.PIPE)
                back = run.stdout
            with tarfile.open(fileobj=io.BytesIO(back)) as tar:
                names = tar.getnames()
                assert names[0] == "ova.xml", names
                chunks = [name for name in names[1:] if name.split("/")[1].isdigit()]
                for name in chunks:
                    number = int(name.split("/")[1])
                    assert tar.extractfile(name).read() == data[number * MIB:(number + 1) * MIB], name
                assert len(chunks) == 3, chunks
    before = sorted(pool.call("VM.get_all") + pool.call("VDI.get_all"))
    for body, code in [
        (archive(data, wrong=True), "IMPORT_ERROR_SOME_CHECKSUMS_FAILED"),
        (xva[:-20480], "IMPORT_ERROR_PREMATURE_EOF"),
    ]:
        status, answer, record = pool.put("/import", body)
        assert status == 200 and answer.startswith(b"HTTP/1.1 500 "), (status, answer)
        assert record["error_info"][0] == code, record["error_info"]
    status, _, record = pool.put("/import_metadata", xva, dry_run="true", force="true")
    assert reference(record).startswith("<array>"), record
    assert sorted(pool.call("VM.get_all") + pool.call("VDI.get_all")) == before
    status, _, record = pool.put("/import_metadata", xva)
    assert record["error_info"][0] == "IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND", record["error_info"]
    print("machine", ", ".join(packed))


def refusals(pool):
    vdi = pool.disk()
    te = {"Transfer-Encoding": "chunked"}
    for status, code, path, body, headers, query in [
        (404, "INTERNAL_ERROR", "/import_raw_vdi", iter([b"x"]), te, {"vdi": vdi}),
        (403, "IMPORT_ERROR_CANNOT_HANDLE_CHUNKED", "/import", iter([b"x"]), te, {}),
        (404, "INTERNAL_ERROR", "/import_raw_vdi", b"x", {}, {"vdi": vdi, "format": "vmdk"}),
        (404, "INTERNAL_ERROR", "/import_raw_vdi", b"x", {}, {"vdi": vdi, "format": "vhd", "chunked": ""}),
        (400, "VDI_MISSING", "/import_raw_vdi", b"x", {}, {}),
        (500, "HANDLE_INVALID", "/import_raw_vdi", b"x", {}, {"vdi": "OpaqueRef:none"}),
        (401, "SESSION_INVALID", "/import_raw_vdi", b"x", {}, {"vdi": vdi, "session_id": "OpaqueRef:none"}),
        (401, "SESSION_INVALID", "/import", b"x", {}, {"session_id": "OpaqueRef:none"}),
    ]:
        got, _, record = pool.put(path, body, headers=headers, **query)
        assert got == status, (got, status, path, query)
        assert record["error_info"][0] == code, (record["error_info"], code)
    print("refusals")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        pool = Pool(json.load(file)["xen"])
    data = content()
    source = raw(pool, data)
    pieces(pool, data)
    vhd(pool, data, source)
    qcow2(pool, data, sys.argv[2])
    machine(pool, data, sys.argv[2])
    refusals(pool)
    pool.call("session.logout")


main()
