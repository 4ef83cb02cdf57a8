#!/usr/bin/env python3
"""Everything that a XenServer has of the kinds that a clone creates, over XML-RPC.

    xen-inventory.py            prints {"VM": [...], "VDI": [...], "VBD": [...], ...}

The server comes from XEN_URL, XEN_USERNAME, XEN_PASSWORD and, for https, XEN_PIN_SHA256 (or
XEN_INSECURE=1). Records are whole and sorted by uuid, without the fields that change by
themselves, so that two outputs of an unchanged server are equal. The session is closed again.
"""

import hashlib
import json
import os
import ssl
import sys
import xmlrpc.client
from urllib.parse import urlsplit

CLASSES = ("VM", "VDI", "VBD", "VIF", "SR", "network", "task")
VOLATILE = {"allowed_operations", "current_operations", "physical_utilisation", "virtual_allocation"}


def transport(url):
    """No transport of our own for plain HTTP; for TLS one that trusts exactly the pinned leaf."""
    if url.scheme != "https":
        return None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if os.environ.get("XEN_INSECURE") != "1":
        pem = ssl.get_server_certificate((url.hostname, url.port or 443), timeout=60)
        pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        if pin not in os.environ["XEN_PIN_SHA256"].split(","):
            sys.exit(f"xen-inventory: the certificate is {pin}, which XEN_PIN_SHA256 does not name")
        context.load_verify_locations(cadata=pem)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return xmlrpc.client.SafeTransport(context=context)


def value(answer):
    if answer.get("Status") != "Success":
        raise RuntimeError(answer.get("ErrorDescription"))
    return answer["Value"]


def plain(thing):
    return str(thing) if isinstance(thing, xmlrpc.client.DateTime) else repr(thing)


def main():
    env = os.environ
    url = urlsplit(env["XEN_URL"])
    server = xmlrpc.client.ServerProxy(env["XEN_URL"].rstrip("/") + "/", transport=transport(url))
    session = value(
        server.session.login_with_password(env["XEN_USERNAME"], env["XEN_PASSWORD"], "1.0", "xen-inventory")
    )
    found = {}
    try:
        for name in CLASSES:
            records = value(getattr(server, name).get_all_records(session)).values()
            kept = [{k: v for k, v in record.items() if k not in VOLATILE} for record in records]
            found[name] = sorted(kept, key=lambda record: record["uuid"])
    finally:
        server.session.logout(session)
    print(json.dumps(found, sort_keys=True, default=plain))


if __name__ == "__main__":
    try:
        main()
    except KeyError as missing:
        sys.exit(f"xen-inventory: {missing} is missing")
    except (OSError, RuntimeError, xmlrpc.client.Error) as error:
        sys.exit(f"xen-inventory: {error}")
