#!/usr/bin/env python3
"""Makes xenapi.tsv, the simulator's own table of XenAPI classes, from a machine-readable model.

Usage: tables.py MODEL.json > xenapi.tsv

The simulator must not share code with the client, or both would share one mistake; so this
script is its own reading of the model. The lines of the table, fields separated by tabs:
  C  class
  F  field  type  default (JSON)
  M  message  result type  async or -  parameters (name:type, name?:type if it may be left out)
     and the least role that may send it, where that is not read-only
"""
import json
import sys

CLASSES = """VM VM_guest_metrics VM_metrics VDI VBD VIF SR SM PBD PIF network pool host host_metrics
task blob console event session""".split()

SHORT = {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": "19700101T00:00:00Z"}


def default(model, kind, text):
    """The JSON value that a fresh record holds in a field of this type."""
    if kind.endswith(" set"):
        inner = (text or "{}").strip("{}").strip()
        if not inner:
            return []
        return [int(x) if kind == "int set" else x.strip('"') for x in inner.split(",")]
    if kind.endswith(" map"):
        pairs = [p for p in (text or "{}").strip("{}").split(", ") if p.strip()]
        return {k.strip('" '): v.strip('" ') for k, v in (p.split("->") for p in pairs)}
    if kind.endswith(" ref"):
        return "OpaqueRef:NULL"
    if kind.startswith("enum "):
        values = model["enums"][kind[5:]]
        names = list(values["values"]) if isinstance(values, dict) else list(values)
        first = names[0] if isinstance(names[0], str) else names[0]["name"]
        return text.strip('"') if text else first
    if text is None:
        return SHORT.get(kind, "")
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text)
    if kind == "bool":
        return text == "true"
    return text.strip('"')


# From most to least; the role of certificates is none that this server has.
ROLES = ["pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "read-only"]


def least(roles):
    """The last role of a list that is in the order of ROLES."""
    known = [role for role in roles if role in ROLES]
    return known[-1] if known and known[-1] != "read-only" else ""


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        model = json.load(file)
    for name in CLASSES:
        cls = model["classes"][name]
        print("C", name, sep="\t")
        for field, spec in cls["fields"].items():
            if spec.get("state") == "removed":
                continue
            value = default(model, spec["type"], spec.get("default"))
            print("F", field, spec["type"], json.dumps(value), sep="\t")
        for message, spec in cls["messages"].items():
            if spec.get("state") == "removed":
                continue
            params = [
                p["name"] + ("?" if "default" in p else "") + ":" + p["type"]
                for p in spec["params"]
            ]
            flag = "async" if spec.get("async") else "-"
            row = ["M", message, spec["result"], flag, ";".join(params)]
            role = least(spec.get("roles", []))
            print(*row, *([role] if role else []), sep="\t")


main()
