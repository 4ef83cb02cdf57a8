#!/usr/bin/env python3
"""Snapshot the machine web01 of a pool, and print {"uuid": ..., "disk": ..., "session": ...} as JSON.

The disk is the UUID of the snapshot's first one.

    snapshot-vm.py      with XEN_URL, XEN_USERNAME and XEN_PASSWORD; certificates are not checked
"""

import json
import os
import ssl
import urllib.request

CONTEXT = ssl._create_unverified_context()


def call(method, *params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["XEN_URL"] + "/jsonrpc", body, headers)
    with urllib.request.urlopen(request, context=CONTEXT, timeout=60) as answer:
        return json.load(answer)["result"]


user, password = os.environ["XEN_USERNAME"], os.environ["XEN_PASSWORD"]
session = call("session.login_with_password", user, password, "1.0", "snapshot-vm")
machine = call("VM.get_by_name_label", session, "web01")[0]
snapshot = call("VM.snapshot", session, machine, "compare-transfers")
devices = [call("VBD.get_record", session, vbd) for vbd in call("VM.get_VBDs", session, snapshot)]
disk = min((d for d in devices if d["type"] == "Disk"), key=lambda d: int(d["userdevice"]))["VDI"]
uuid = call("VM.get_uuid", session, snapshot)
print(json.dumps({"uuid": uuid, "disk": call("VDI.get_uuid", session, disk), "session": session}))
