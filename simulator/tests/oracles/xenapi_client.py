#!/usr/bin/env python3
"""Drives the simulated pool with PyPI's XenAPI: a client that this project did not write.

Usage: xenapi_client.py READY.json (the line that the simulator prints)
Prints one line per step; any surprise is an exception.
"""
import io
import json
import ssl
import sys
import tarfile
import time
import urllib.request
import xml.etree.ElementTree
import xmlrpc.client

import XenAPI


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        xen = json.load(file)["xen"]
    session = XenAPI.Session(xen["url"], ignore_ssl=True)

    try:
        session.login_with_password("root", "wrong", "1.0", "oracle")
        raise AssertionError("a wrong password was accepted")
    except XenAPI.Failure as failure:
        assert failure.details[0] == "SESSION_AUTHENTICATION_FAILED", failure.details
    session.login_with_password(xen["username"], xen["password"], "1.0", "oracle")
    api = session.xenapi
    print("login", session.API_version)
    assert session.API_version == "2.21", session.API_version

    records = api.VM.get_all_records()
    web01 = [r for r, vm in records.items() if vm["name_label"] == "web01" and vm["power_state"] == "Running"]
    assert len(records) == 3 and len(web01) == 1, list(records)
    vm = records[web01[0]]
    # Integers are strings over XML-RPC, booleans are not, dates have their own type.
    assert vm["memory_static_max"] == str(2 << 30), vm["memory_static_max"]
    assert vm["is_a_template"] is False and isinstance(vm["HVM_shadow_multiplier"], float)
    assert hasattr(vm["snapshot_time"], "timetuple"), vm["snapshot_time"]
    print("records", len(records), "with", len(vm), "fields")

    before = (api.VM.get_all_records(), api.VDI.get_all_records(), api.VBD.get_all_records())
    task = api.Async.VM.snapshot(web01[0], "by the oracle")
    while api.task.get_status(task) == "pending":
        time.sleep(0.01)
    record = api.task.get_record(task)
    assert record["status"] == "success" and float(record["progress"]) == 1.0, record
    snapshot = record["result"][len("<value>"):-len("</value>")]
    api.task.destroy(task)
    assert api.VM.get_is_a_snapshot(snapshot) is True
    print("snapshot", api.VM.get_uuid(snapshot))

    batch = getattr(api.event, "from")(["vm"], "", 5.0)
    assert {e["operation"] for e in batch["events"]} == {"add"}, batch["events"]
    assert batch["valid_ref_counts"]["vm"] == 4, batch["valid_ref_counts"]
    print("events", len(batch["events"]))

    disks = [api.VBD.get_VDI(b) for b in api.VM.get_VBDs(snapshot) if api.VBD.get_type(b) == "Disk"]
    for vdi in disks:
        export(api, session, xen["url"], vdi)
    metadata(session, xen["url"], web01[0])
    metrics(session, xen["url"], vm["uuid"])
    blob(api, session, xen["url"])
    api.VM.destroy(snapshot)
    for vdi in disks:
        api.VDI.destroy(vdi)
    after = (api.VM.get_all_records(), api.VDI.get_all_records(), api.VBD.get_all_records())
    assert before == after, "something was left behind"

    try:
        api.VM.get_record("OpaqueRef:none")
        raise AssertionError("an invalid handle was accepted")
    except XenAPI.Failure as failure:
        assert failure.details == ["HANDLE_INVALID", "VM", "OpaqueRef:none"], failure.details
    api.session.logout()
    print("all is as before")


def fetch(session, target, data=None):
    """A raw handler's answer to GET, or to PUT with data."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    cookie = {"Cookie": "session_id=" + session._session}
    request = urllib.request.Request(target, data, cookie, method="GET" if data is None else "PUT")
    with urllib.request.urlopen(request, context=context) as response:
        return response.read()


def metadata(session, url, vm):
    """The description of a machine and of its snapshot, as a tar file of an XML-RPC value."""
    body = fetch(session, "%s/export_metadata?ref=%s" % (url, vm))
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.getnames() == ["ova.xml"], archive.getnames()
        ova = archive.extractfile("ova.xml").read().decode()
    wrapped = "<methodResponse><params><param>%s</param></params></methodResponse>" % ova
    (value,), _ = xmlrpc.client.loads(wrapped, use_builtin_types=True)
    machines = {o["id"]: o["snapshot"] for o in value["objects"] if o["class"] == "VM"}
    of = [vm["snapshot_of"] for vm in machines.values() if vm["is_a_snapshot"]]
    assert len(machines) == 2 and machines[of[0]]["name_label"] == "web01", machines.keys()
    print("metadata", len(value["objects"]), "objects")


def metrics(session, url, uuid):
    """The last minutes, in JSON and in XML; and the whole database of one guest."""
    target = "%s/rrd_updates?start=%d&cf=AVERAGE&host=true" % (url, time.time() - 120)
    told = json.loads(fetch(session, target + "&json=true"))
    legend = told["meta"]["legend"]
    memory = legend.index("AVERAGE:vm:%s:memory" % uuid)
    assert {float(row["values"][memory]) for row in told["data"]} == {2.1475e9}
    tree = xml.etree.ElementTree.fromstring(fetch(session, target))
    assert [e.text for e in tree.iter("entry")] == legend
    columns = {len(row.findall("v")) for row in tree.iter("row")}
    assert columns == {len(legend)} == {int(tree.findtext("meta/columns"))}, columns
    tree = xml.etree.ElementTree.fromstring(fetch(session, "%s/vm_rrd?uuid=%s" % (url, uuid)))
    sources = [ds.findtext("name") for ds in tree.findall("ds")]
    assert "memory" in sources and len(tree.findall("rra")) == 10, sources
    print("metrics", len(legend), "columns,", len(told["data"]), "rows")


def blob(api, session, url):
    """A blob holds what was put into it."""
    made = api.blob.create("text/plain")
    fetch(session, "%s/blob?ref=%s" % (url, made), b"of the oracle")
    # The answer to a PUT comes before its body is read.
    while api.blob.get_size(made) != "13":
        time.sleep(0.01)
    assert fetch(session, "%s/blob?uuid=%s" % (url, api.blob.get_uuid(made))) == b"of the oracle"
    api.blob.destroy(made)
    print("blob 13 bytes")


def export(api, session, url, vdi):
    """Exports a disk and compares its shape with the record's."""
    task = api.task.create("export", "by the oracle")
    body = fetch(session, "%s/export_raw_vdi?vdi=%s&format=vhd&task_id=%s" % (url, vdi, task))
    while api.task.get_status(task) == "pending":
        time.sleep(0.01)
    assert api.task.get_status(task) == "success", api.task.get_record(task)
    api.task.destroy(task)
    assert body[:8] == b"conectix" and body[:512] == body[-512:]
    size = int.from_bytes(body[48:56], "big")
    assert str(size) == api.VDI.get_virtual_size(vdi), size
    print("export", len(body), "bytes of", size)


main()
